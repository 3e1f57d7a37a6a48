"""Draw and write what the handbook shows: equations, tables of methods and figures, pictures. Run by ``make docs``.

Everything lands in ``docs/_generated`` (made anew each time) except the pictures in ``docs/images``, which are kept.
"""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import figures_captioners
import figures_features
import figures_generators
import figures_speech
import figures_vision
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from PIL import Image

from intermodal.core.registry import cards
from intermodal.data.emoji import EmojiSource
from intermodal.evaluate.result import Heatmap
from intermodal.evaluate.result import load as load_evaluation
from intermodal.recipes import get_recipe
from intermodal.recipes.measured import in_words, measured

HERE = Path(__file__).parent
GENERATED = HERE / "_generated"
IMAGES = HERE / "images"

START, END = "<!-- methods: written by docs/build.py -->", "<!-- /methods -->"

EQUATIONS = {
    "clipcap": r"$p_1, \ldots, p_k = F(v)\qquad L = -\frac{1}{n}\sum_{i=1}^{n} "
    r"\log p(w_i\,|\,p_1, \ldots, p_k,\ w_1, \ldots, w_{i-1})$",
    "decap-project": r"$v' = \frac{\sum_i a_i\,m_i}{\|\sum_i a_i\,m_i\|}\qquad "
    r"a_i = \frac{\exp(v \cdot m_i / \tau)}{\sum_j \exp(v \cdot m_j / \tau)}$",
    "decap-noise": r"$L = -\frac{1}{n}\sum_{i=1}^{n} \log p(w_i\,|\,t',\ w_1, \ldots, w_{i-1})\qquad "
    r"t' = \frac{t + \sigma z}{\|t + \sigma z\|}\qquad z \sim N(0, I)$",
    "clip-guided": r"$s(x) = \alpha\,\cos(v, E(x)) + \beta\,\frac{1}{n}\log p(x)\qquad "
    r"x_i \leftarrow \mathrm{argmax}_{w\,\in\,\mathrm{top-k}(p(\cdot|x_{<i}))}\ s(x_1, \ldots, w, \ldots, x_n)$",
    "vit-blocks": r"$z_0 = [x_{class};\ x_1 E;\ \ldots;\ x_N E] + E_{pos}\qquad z'_l = MSA(LN(z_{l-1})) + z_{l-1}\qquad "
    r"z_l = MLP(LN(z'_l)) + z'_l\qquad y = LN(z_L^0)$",
    "vit-distillation": r"$L = \frac{1}{2}\,CE(\psi(Z_s),\ y) + \frac{1}{2}\,CE(\psi(Z_{dist}),\ y_t)\qquad "
    r"y_t = \mathrm{argmax}_c\ Z_t(c)$",
    "vit-rollout": r"$R_l = \left(\frac{1}{2}\,\bar{A}_l + \frac{1}{2}\,I\right) R_{l-1}\qquad R_0 = I\qquad "
    r"\bar{A}_l = \frac{1}{H}\sum_h A_l^h$",
    "swin-attention": r"$\mathrm{Attention}(Q, K, V) = \mathrm{softmax}\left(\frac{Q K^T}{\sqrt{d}} + B\right) V\qquad "
    r"B_{ij} = \hat{B}[\Delta_{ij}]$",
    "swin-v2": r"$\mathrm{Sim}(q_i, k_j) = \frac{\cos(q_i, k_j)}{\tau} + 16\,\sigma(g(\hat{\Delta}_{ij}))\qquad "
    r"\hat{\Delta} = \mathrm{sign}(\Delta)\,\frac{\log_2(1 + |\Delta|)}{\log_2 8}$",
    "swin-cost": r"$\Omega(MSA) = 4 h w C^2 + 2 (h w)^2 C\qquad \Omega(W\!\!-\!\!MSA) = 4 h w C^2 + 2 M^2 h w C$",
    "hybrid-bayes": r"$\log p(x\,|\,s) = \log p(s\,|\,x) - \log p(s) + \log p(x)$",
    "hybrid-score": r"$\hat{w} = \mathrm{argmax}_{w}\ \max_{s \in w}\ \sum_t \left[\log p(s_t\,|\,x) - \kappa \log p(s_t)"
    r" + \log a_{s_t s_{t+1}}\right] + \lambda \log p(w)$",
    "hybrid-loss": r"$L = -\frac{1}{N}\sum_{t=1}^{N} \log p(\bar{s}_t\,|\,x)\qquad "
    r"\bar{s} = \mathrm{argmax}_{s \in w}\ p_{GMM}(x, s)$",
    "hmm-likelihood": r"$p(x\,|\,w) = \sum_{s}\ \prod_{t=1}^{T}\ a_{s_{t-1} s_t}\ b_{s_t}(x_t)\qquad "
    r"b_j(x) = \sum_k c_{jk}\ N(x;\ \mu_{jk},\ \sigma_{jk}^2)$",
    "hmm-forward": r"$\alpha_t(j) = b_j(x_t) \sum_i \alpha_{t-1}(i)\ a_{ij}\qquad "
    r"\beta_t(i) = \sum_j a_{ij}\ b_j(x_{t+1})\ \beta_{t+1}(j)\qquad "
    r"\gamma_t(j) = \frac{\alpha_t(j)\ \beta_t(j)}{p(x\,|\,w)}$",
    "hmm-update": r"$\mu_{jk} = \frac{\sum_t \gamma_t(j, k)\ x_t}{\sum_t \gamma_t(j, k)}\qquad "
    r"\sigma_{jk}^2 = \frac{\sum_t \gamma_t(j, k)\ x_t^2}{\sum_t \gamma_t(j, k)} - \mu_{jk}^2\qquad "
    r"c_{jk} = \frac{\sum_t \gamma_t(j, k)}{\sum_t \gamma_t(j)}$",
    "wav2vec2-contrastive": r"$L_m = -\log\frac{e^{\mathrm{sim}(c_t,\,q_t)/\kappa}}"
    r"{\sum_{\tilde q\,\in\,Q_t} e^{\mathrm{sim}(c_t,\,\tilde q)/\kappa}}\qquad L = L_m + \alpha L_d$",
    "wav2vec2-diversity": r"$L_d = \frac{1}{GV}\left(GV - \sum_{g=1}^{G} e^{H(\bar p_g)}\right)\qquad "
    r"(\mathrm{paper:}\ L_d = -\frac{1}{GV}\sum_{g=1}^{G} H(\bar p_g))$",
    "lm-fusion": r"$\hat W = \mathrm{argmax}_W\ \log p(X, W) + \lambda\,\log P(W) + \beta\,|W|$",
    "lm-fusion-risk": r"$L = \frac{1}{N}\sum_{W\,\in\,n\mathrm{-best}(X)} p_{\lambda\beta}(W\,|\,X)\ E(W, W^{*})\qquad "
    r"p_{\lambda\beta}(W\,|\,X) = \frac{e^{s(W)}}{\sum_{W'} e^{s(W')}}$",
    "kneser-ney": r"$p(w\,|\,c) = \frac{\max(a(cw) - D_{a(cw)},\,0)}{\sum_v a(cv)} + \gamma(c)\,p(w\,|\,c')\qquad "
    r"D_k = k - (k+1)\,\frac{t_1}{t_1 + 2t_2}\,\frac{t_{k+1}}{t_k}$",
    "ctc-loss": r"$L = -\log\sum_{\pi\,:\,B(\pi) = y}\ \prod_{t=1}^{T}\ p(\pi_t\,|\,x)$",
    "ctc-forward": r"$\alpha_t(s) = p_t(y'_s)\left(\alpha_{t-1}(s) + \alpha_{t-1}(s-1) + \alpha_{t-1}(s-2)\right)"
    r"\qquad \mathrm{the\ last\ one\ if}\ y'_s \neq \mathrm{blank},\ y'_s \neq y'_{s-2}$",
    "ctc-gradient": r"$\frac{\partial L}{\partial u_t(k)} = p_t(k) - \sum_{s\,:\,y'_s = k} \gamma_t(s)"
    r"\qquad \gamma_t(s) = \frac{\alpha_t(s)\,\beta_t(s)}{p_t(y'_s)\,p(y\,|\,x)}$",
    "ctc-prefix": r"$b_t(\ell) = p_t(\mathrm{blank})\left(b_{t-1}(\ell) + n_{t-1}(\ell)\right)\qquad "
    r"n_t(\ell c) = p_t(c)\left(n_{t-1}(\ell c) + b_{t-1}(\ell) "
    r"+ [\ell\ \mathrm{does\ not\ end\ in}\ c]\,n_{t-1}(\ell)\right)$",
    "ctc-rank": r"$s(W) = \log\left(b_T(\ell) + n_T(\ell)\right) + \lambda\,\log P(W) + \beta\,|W|"
    r" + \eta\,\mathrm{hot}(W)$",
    "mel-window": r"$y_t = w_t\left(x_t - a\,x_{t-1}\right)\qquad "
    r"P_k = \left|\sum_t y_t\,e^{-2\pi i\,k t / K}\right|^2$",
    "mel-bands": r"$\mathrm{mel}(f) = 2595\,\log_{10}\left(1 + \frac{f}{700}\right)\qquad "
    r"m_b = \log\sum_k W_{kb}\,P_k\qquad c_n = \sqrt{2/B}\sum_b m_b\,\cos\frac{\pi n (b + 1/2)}{B}$",
    "mel-deltas": r"$d_t = \frac{\sum_{j=1}^{J} j\left(c_{t+j} - c_{t-j}\right)}{2\sum_{j=1}^{J} j^2}$",
    "clip-softmax": r"$L = -\frac{1}{2B}\sum_{i}\left[\log\frac{e^{s\,x_i\cdot y_i}}{\sum_j e^{s\,x_i\cdot y_j}}"
    r" + \log\frac{e^{s\,x_i\cdot y_i}}{\sum_j e^{s\,x_j\cdot y_i}}\right]$",
    "llava": r"$H_v = W\,Z_v\qquad L = -\sum_{i \in answers}\ \log p_\theta(a_i\ |\ H_v,\ q,\ a_{<i})$",
    "experts": r"$x' = x + \mathrm{attention}(\mathrm{norm}(x))\qquad "
    r"y_t = x'_t + \mathrm{mlp}_{e(t)}(\mathrm{norm}_{e(t)}(x'_t))\qquad e(t)\in\{V,\,L,\,VL\}$",
    "experts-loss": r"$L = L_{con} + L_{match} + \lambda \sum_{k} L_k\qquad "
    r"\mathrm{wrong\ text\ of}\ i:\ j \neq i\ \sim\ q_i(j) \propto e^{s\,x_i\cdot y_j}\qquad "
    r"L_k = -\mathrm{mean}_{t \in hidden}\ \log p(w_t\ |\ \mathrm{what\ is\ left})$",
    "trocr": r"$L = -\frac{1}{n}\sum_{i=1}^{n}\log p(w_i\,|\,w_{<i},\,\mathrm{enc}(I))\qquad "
    r"y_1 = LN(y + \mathrm{attention}(y))\qquad y_2 = LN(y_1 + \mathrm{cross}(y_1,\,\mathrm{enc}(I)))\qquad "
    r"y_3 = LN(y_2 + \mathrm{mlp}(y_2))$",
    "trocr-otsu": r"$t^{*} = \mathrm{argmax}_t\ \omega_0(t)\,\omega_1(t)\left(\mu_0(t) - \mu_1(t)\right)^2$",
    "coca": r"$L = L_{con} + \lambda\,L_{cap}\qquad L_{cap} = -\sum_{t}\log p(w_t\,|\,w_{<t},\,I)\qquad "
    r"L_{con} = -\frac{1}{2B}\sum_{i}\left[\log\frac{e^{s\,x_i\cdot y_i}}{\sum_j e^{s\,x_i\cdot y_j}}"
    r" + \log\frac{e^{s\,x_i\cdot y_i}}{\sum_j e^{s\,x_j\cdot y_i}}\right]$",
    "clip-sigmoid": r"$L = -\frac{1}{B}\sum_{i,j}\log\,\sigma\left(z_{ij}\,(s\,x_i\cdot y_j + b)\right)$",
    "binding": r"$L = \sum_{M}\ \frac{1}{2}\left(L_{I,M} + L_{M,I}\right)\qquad"
    r"L_{I,M} = -\frac{1}{B}\sum_i \log\frac{e^{s_M\,q_i\cdot k_i}}{\sum_j e^{s_M\,q_i\cdot k_j}}$",
    "sgns": r"$L = -\log\,\sigma(u_c\cdot v_w) - \sum_{k=1}^{K}\log\,\sigma(-u_{n_k}\cdot v_w)"
    r"\qquad n_k \sim \mathrm{count}^{3/4}$",
    "pair": r"$L = y\,\frac{1}{2}\,d^2 + (1 - y)\,\frac{1}{2}\,\max(0,\ m - d)^2$",
    "triplet": r"$L = \max\left(0,\ d(a, p) - d(a, n) + m\right)$",
    "nt-xent": r"$L = -\frac{1}{2B}\sum_{i}\,\log\frac{e^{z_i\cdot z_{j(i)}/\tau}}{\sum_{a \neq i} e^{z_i\cdot z_a/\tau}}$",
    "supcon-out": r"$L_{out} = \sum_i \frac{-1}{|P(i)|}\sum_{p\in P(i)}"
    r"\log\frac{e^{z_i\cdot z_p/\tau}}{\sum_{a \neq i} e^{z_i\cdot z_a/\tau}}$",
    "supcon-in": r"$L_{in} = \sum_i -\log\left[\frac{1}{|P(i)|}\sum_{p\in P(i)}"
    r"\frac{e^{z_i\cdot z_p/\tau}}{\sum_{a \neq i} e^{z_i\cdot z_a/\tau}}\right]$",
    "vicreg": r"$L = \frac{\lambda}{BD}\sum_{i}\|z_i - z'_i\|^2"
    r" + \mu\,\left[v(Z) + v(Z')\right] + \nu\,\left[c(Z) + c(Z')\right]$",
    "vicreg-terms": r"$v(Z) = \frac{1}{D}\sum_{d}\max\left(0,\ 1 - \sqrt{C_{dd} + \epsilon}\right)"
    r"\qquad c(Z) = \frac{1}{D}\sum_{d \neq e} C_{de}^2$",
    "e-ssl": r"$L = L_{SSL}(z, z') + \lambda\,\mathrm{CE}\left(p(f(g_k x)),\ k\right)\qquad k \in \{0, 1, 2, 3\}$",
    "ebm-density": r"$p(x) = \frac{e^{-E(x)}}{Z}\qquad Z = \int e^{-E(x)}\,dx$",
    "ebm-gradient": r"$\nabla\,\mathbf{E}\left[-\log p(x)\right] = \mathbf{E}_{data}\left[\nabla E(x)\right]"
    r" - \mathbf{E}_{p}\left[\nabla E(x)\right]$",
    "ebm-loss": r"$L = \log\left(1 + e^{\,g}\right) + \alpha\left(\overline{E(x)^2} + \overline{E(\tilde{x})^2}\right)"
    r"\qquad g = \overline{E(x)} - \overline{E(\tilde{x})}$",
    "langevin": r"$\tilde{x}_{k+1} = \tilde{x}_k - \eta\,\nabla E(\tilde{x}_k) + \sigma\,\epsilon_k"
    r"\qquad \epsilon_k \sim N(0, 1)$",
    "bert": r"$L = -\frac{1}{|M|}\sum_{i \in M} \log p(w_i\ |\ \tilde{x})\ -\ \lambda\,\log p(r\ |\ \tilde{x})"
    r"\qquad r \in \{next,\ random\}$",
    "simcse": r"$L = -\frac{1}{B}\sum_i \log\frac{e^{h_i\cdot h_i^+/\tau}}"
    r"{\sum_j \left(e^{h_i\cdot h_j^+/\tau} + e^{h_i\cdot h_j^-/\tau}\right)}$",
    "vqvae-code": r"$k = \mathrm{argmin}_j\,\|z - e_j\|^2\qquad z_q = e_k + \left(z - \mathrm{sg}[z]\right)$",
    "vqvae-loss": r"$L = \frac{1}{2\sigma^2}\,\|x - D(z_q)\|^2 + \|\mathrm{sg}[z] - e_k\|^2"
    r" + \beta\,\|z - \mathrm{sg}[e_k]\|^2$",
    "vqvae-ema": r"$N_i \leftarrow \gamma N_i + (1 - \gamma)\,n_i"
    r"\qquad m_i \leftarrow \gamma m_i + (1 - \gamma)\sum_{k(z) = i} z\qquad e_i = m_i / N_i$",
    "vqvae-residual": r"$r_0 = z\qquad r_q = r_{q-1} - e^{(q)}_{k_q}\qquad z_q = \sum_{q=1}^{Q} e^{(q)}_{k_q}$",
    "vqvae-fsq": r"$d_i = \mathrm{round}\left(\frac{L_i - 1}{2}\,\tanh(z_i + s_i) - o_i\right)"
    r"\qquad k = \sum_i \left(d_i + \lfloor L_i/2 \rfloor\right)\prod_{j<i} L_j$",
    "vqgan-loss": r"$L = |x - \hat{x}| + w_p\,d_{features}(x, \hat{x}) + L_{codes} + w_a\,\lambda\,L_{GAN}"
    r"\qquad L_{GAN} = -\overline{D(\hat{x})}$",
    "vqgan-lambda": r"$\lambda = \frac{\|\nabla_{w}\,L_{rec}\|}{\|\nabla_{w}\,L_{GAN}\| + \delta}$",
    "vqgan-discriminator": r"$L_D = \overline{\max(0,\ 1 - D(x))} + \overline{\max(0,\ 1 + D(\hat{x}))}$",
    "vqgan-prior": r"$p(s) = \prod_i p(s_i\ |\ s_{<i})\qquad L = -\frac{1}{N}\sum_i \log\,p(s_i\ |\ s_{<i})$",
    "dalle-loss": r"$L = -\frac{w}{N_t}\sum_i \log\,p(t_i\ |\ t_{<i})"
    r" - \frac{1 - w}{N_s}\sum_j \log\,p(s_j\ |\ t,\ s_{<j})\qquad w = \frac{1}{8}$",
    "dalle-guidance": r"$\hat{l}_j = l(s_{<j}) + \gamma\,\left(l(t,\ s_{<j}) - l(s_{<j})\right)"
    r"\qquad s_j \sim \mathrm{softmax}(\hat{l}_j)$",
    "dvae-bound": r"$L = \frac{1}{CHW}\left[-\log p(x\ |\ z) + \beta\sum_{i=1}^{hw}"
    r"\left(\log K - \mathrm{H}\left[q(z_i\ |\ x)\right]\right)\right]$",
    "dvae-gumbel": r"$z_i = \mathrm{softmax}\left(\frac{l_i + g_i}{\tau}\right)\qquad g_{ik} = -\log(-\log u_{ik})$",
    "dvae-likelihood": r"$f(x\ |\ \mu, b) = \frac{1}{2\,b\,x\,(1 - x)}\ "
    r"\exp\left(-\frac{|\log\frac{x}{1 - x} - \mu|}{b}\right)$",
    "perceptual": r"$d(x, x') = \sum_l \frac{1}{H_l W_l}\sum_{h,w}\sum_c w_{lc}"
    r"\left(\frac{y_{lchw}}{\|y_{lhw}\|} - \frac{y'_{lchw}}{\|y'_{lhw}\|}\right)^2$",
    "fusion-score": r"$\mathrm{score}(w) = \log p(x\ |\ w) + \lambda\,\log p(w) + \beta\,|w|$",
    "diffusion-forward": r"$x_t = \alpha_t\,x_0 + \sigma_t\,\epsilon\qquad q(x_t\ |\ x_0) = N(\alpha_t x_0,\ \sigma_t^2)$",
    "diffusion-posterior": r"$q(x_s\ |\ x_t, x_0) = N\left(\frac{\alpha_t\,\sigma_s^2}{\alpha_s\,\sigma_t^2}\,x_t"
    r" + \alpha_s\left(1 - \frac{\alpha_t^2\sigma_s^2}{\alpha_s^2\sigma_t^2}\right) x_0,\ "
    r"\sigma_s^2\left(1 - \frac{\alpha_t^2\sigma_s^2}{\alpha_s^2\sigma_t^2}\right)\right)$",
    "diffusion-kinds": r"$\epsilon\qquad x_0\qquad v = \alpha_t\,\epsilon - \sigma_t\,x_0\qquad u = \epsilon - x_0$",
    "diffusion-bound": r"$L = \mathrm{KL}\left(q(x_T|x_0)\,\|\,N(0, 1)\right)"
    r" + \sum_{t>1}\mathrm{KL}\left(q(x_{t-1}|x_t, x_0)\,\|\,p(x_{t-1}|x_t)\right) - \log p(x_0|x_1)$",
    "diffusion-ddim": r"$x_s = \alpha_s\,\hat{x}_0 + \sqrt{\sigma_s^2 - \tilde{\sigma}^2}\;\hat{\epsilon}"
    r" + \tilde{\sigma}\,z\qquad "
    r"\tilde{\sigma} = \eta\,\sigma_s\sqrt{1 - \frac{\alpha_t^2\sigma_s^2}{\alpha_s^2\sigma_t^2}}$",
    "classifier-guidance-bayes": r"$\nabla_{x_t} \log p(x_t\,|\,y) = \nabla_{x_t} \log p(x_t)"
    r" + \nabla_{x_t} \log p(y\,|\,x_t)$",
    "classifier-guidance-loss": r"$L = -\,\mathbf{E}_{t,\,(x_0,\,y),\,\epsilon}\ \log p_\phi(y\,|\,x_t,\ t)"
    r"\qquad x_t = \alpha_t\,x_0 + \sigma_t\,\epsilon$",
    "ddpm-simple": r"$L_{simple} = \mathbf{E}_{t,\,x_0,\,\epsilon}\ \|\epsilon - \epsilon_\theta(x_t, t)\|^2$",
    "ddpm-hybrid": r"$L_{hybrid} = L_{simple} + \lambda\,L_{bound}\qquad \lambda = 0.001$",
    "ddpm-range": r"$\Sigma_\theta = \exp\left(\nu\,\log\beta_t + (1 - \nu)\,\log\tilde{\beta}_t\right)$",
    "diffusion-guidance": r"$\tilde{\epsilon} = \epsilon(x) + w\left(\epsilon(x, c) - \epsilon(x)\right)"
    r"\qquad \tilde{\epsilon} = \epsilon(x) - w\,\sigma_t\,\nabla_x \log p(c\ |\ x)$",
    "t2i-gan-discriminator": r"$L_D = f(-D(x, t)) + (1 - m)\,f(D(G(z, t), t)) + m\,f(D(x, \hat{t}\,))"
    r"\qquad f(s) = \log(1 + e^{s})$",
    "t2i-gan-generator": r"$L_G = f(-D(G(z, t), t)) = -\log\,\sigma(D(G(z, t), t))$",
    "t2i-gan-r1": r"$R_1 = \frac{\gamma}{2}\,\mathbf{E}_{x}\,\|\nabla_x D(x, t)\|^2$",
    "t2i-gan-projection": r"$D(x, t) = \psi(\phi(x)) + \phi(x)^T\,V\,c(t)\;/\,\sqrt{F}$",
    "nce-logit": r"$h(u) = \sigma\left(\log p_{model}(u) - \log p_{noise}(u) - \log k\right)$",
    "nce-loss": r"$L = -\mathbf{E}_{data}\left[\log h(x)\right] - k\,\mathbf{E}_{noise}\left[\log(1 - h(y))\right]$",
    "elbo-gap": r"$\log p(x) = \mathbf{E}_{q}\left[\log\frac{p(x, z)}{q(z)}\right]"
    r" + \mathrm{KL}\left(q(z)\ \|\ p(z|x)\right)$",
    "elbo-iw": r"$L_K = \mathbf{E}\left[\log\frac{1}{K}\sum_{k=1}^{K}\frac{p(x, z_k)}{q(z_k)}\right]"
    r"\qquad L_1 \leq L_2 \leq \ldots \leq \log p(x)$",
    "elbo-model": r"$x = W z + \mu + \sigma\,\epsilon\qquad p(x) = N(\mu,\ W W^T + \sigma^2 I)"
    r"\qquad p(z|x) = N\left(M^{-1} W^T (x - \mu),\ \sigma^2 M^{-1}\right)\qquad M = W^T W + \sigma^2 I$",
    "elbo-ml": r"$W = U\,(\Lambda - \sigma^2 I)^{1/2}\,R\qquad \sigma^2 = \frac{1}{D - Z}\sum_{j > Z} \lambda_j$",
    "elbo-diagonal": r"$\mathrm{KL} = \frac{1}{2}\left(\sum_i \log M_{ii} - \log \det M\right)$",
    "patches-tokens": r"$t_i = Q\,(x_i - \mu)\qquad \hat{x}_i = Q^T t_i + \mu\qquad Q Q^T = I$",
    "patches-loss": r"$L = |x - \hat{x}|^2 + \frac{\Delta^2}{6}\,R(t / \Delta)"
    r" + CE\left(\frac{1}{n}\sum_i f(t_i),\ y\right)$",
    "vae-bound": r"$\log p(x)\ \geq\ \mathbf{E}_{q(z|x)}\left[\log p(x|z)\right]"
    r" - \beta\,\mathrm{KL}\left(q(z|x)\ \|\ N(0, 1)\right)\qquad z = \mu(x) + \sigma(x)\,\epsilon$",
    "vae-kl": r"$\mathrm{KL} = \frac{1}{2}\sum_j \left(\mu_j^2 + \sigma_j^2 - 1 - \log\sigma_j^2\right)$",
    "vae-bins": r"$P(k\ |\ z) = F\left(\frac{x_k + \delta - m}{s}\right) - F\left(\frac{x_k - \delta - m}{s}\right)$",
    "vae-iw": r"$\log p(x)\ \geq\ \mathbf{E}\left[\log\frac{1}{K}\sum_{k=1}^{K}\frac{p(x|z_k)\,p(z_k)}{q(z_k|x)}\right]$",
}


def equation(name: str, text: str) -> None:
    """Write an equation as an inline SVG that takes the page's text colour."""
    figure = plt.figure(figsize=(0.01, 0.01))
    figure.text(0, 0, text, fontsize=16)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", transparent=True)
    plt.close(figure)
    svg = buffer.getvalue()
    svg = re.sub(r"<\?xml.*?<svg", "<svg", svg, flags=re.S)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{name}" fill="currentColor"', 1)
    (GENERATED / f"{name}.svg").write_text(re.sub(r"\n\s*", " ", svg) + "\n", encoding="utf-8")


def methods_table() -> str:
    """Return the table of methods with what each is measured to reach."""
    lines = ["| id | method | paper | can | measured | compared with |", "|---|---|---|---|---|---|"]
    for card in cards().values():
        figures = [f"`{name}`: {in_words(measured()[name])}" for name in card.recipes if name in measured()]
        page = HERE / "methods" / f"{card.id}.md"
        name = f"[{card.id}](methods/{card.id}.md)" if page.exists() else card.id
        lines.append(
            f"| {name} | {card.title} | {card.paper} | {', '.join(card.capabilities)} | {'<br>'.join(figures)} "
            f"| {card.reference} |"
        )
    return "\n".join(lines) + "\n"


def measured_table(method: str) -> str:
    """Return all figures of a method's recipes as a table."""
    rows = [
        "| recipe | figure | value | baseline | on | time | hardware | date |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for recipe in cards()[method].recipes:
        if recipe in measured():
            m = measured()[recipe]
            rows.append(
                f"| `{recipe}` | {m['metric']} | {m['value']:.3f} | {m['baseline']:.3f} | {m['split']} "
                f"| {m['minutes']:.1f} min | {m['hardware']} | {m['date']} |"
            )
    return "\n".join(rows) + "\n"


BASELINES = {
    "colours_": "colours to words",
    "pixels_": "raw pixels",
    "random_": "random weights",
    "ppca_": "PPCA",
    "bigram_": "bigram",
    "majority_": "most frequent",
    "overlap_": "overlap of words",
    "before_": "before SimCSE",
    "sif_": "word2vec, SIF",
    "words_": "word2vec, mean",
    "through_": "through training pictures",
    "chance_": "chance",
    "training_": "training pictures",
    "real_": "held-out pictures",
}
"""How a baseline's figures begin, and what stands over their column."""


def all_figures(method: str) -> str:
    """Return every figure of a method's recipes beside its baselines, as tables."""
    text = ""
    for recipe in cards()[method].recipes:
        metrics = measured().get(recipe, {}).get("metrics", {})
        own = [n for n in metrics if not n.startswith(tuple(BASELINES))]
        prefixes = [p for p in BASELINES if any(p + n in metrics for n in own)]
        names = [n for n in own if any(p + n in metrics for p in prefixes)] if prefixes else own
        if not names:
            continue
        head = " | ".join(["figure", "reached", *(BASELINES[p] for p in prefixes)])
        rows = [f"| {head} |", "|---" * (2 + len(prefixes)) + "|"]
        for name in names:
            values = [metrics.get(who + name) for who in ("", *prefixes)]
            rows.append(f"| `{name}` | " + " | ".join("" if v is None else f"{v:.3g}" for v in values) + " |")
        text += f"\nAll figures of `{recipe}`:\n\n" + "\n".join(rows) + "\n"
    return text


ENCODERS = ("simclr", "e-ssl", "vicreg", "siamese", "triplet", "supcon", "supervised")
WITHOUT_LABELS = ENCODERS[:3]
FEATURES = {"knn": "k-NN", "probe": "probe", "style_knn": "k-NN, new styles", "style_probe": "probe, new styles"}


def encoders_table() -> str:
    """Return what the frozen features of each image encoder's recipe hold, beside random weights and raw pixels."""
    found = [(name, measured()[name]) for name in ENCODERS if name in measured()]
    if not found:
        return "Not measured yet.\n"
    rows = [
        f"| | labels | {' | '.join(FEATURES.values())} | minutes | CPU minutes |",
        "|---" * (len(FEATURES) + 4) + "|",
    ]
    for name, entry in found:
        values = [f"{entry['metrics'][f]:.3f}" for f in FEATURES]
        labels = "no" if name in WITHOUT_LABELS else "yes"
        rows.append(
            f"| `{name}` | {labels} | {' | '.join(values)} | {entry['minutes']:.1f} | {entry['cpu_minutes']:.1f} |"
        )
    metrics = found[0][1]["metrics"]
    for prefix, name in (("random_", f"random weights (of `{found[0][0]}`)"), ("pixels_", "raw pixels, 16 x 16")):
        values = [f"{metrics[prefix + f]:.3f}" for f in FEATURES]
        rows.append(f"| {name} | no | {' | '.join(values)} | | |")
    return "\n".join(rows) + "\n"


def performance_tables() -> str:
    """Return the recorded benchmarks as tables."""
    text = ""
    for file in sorted((HERE.parent / "benchmarks" / "results").glob("*.json")):
        data = json.loads(file.read_text(encoding="utf-8"))
        peers = ", ".join(f"{k} {v}" for k, v in data["versions"].items())
        where = f"{data['hardware']}, {data['threads']} thread(s), {data['date'][:10]}"
        text += f"## `{data['benchmark']}`\n\n{where}. {peers}.\n"
        for case in data["cases"]:
            text += f"\n**{case['title']}** (minimum of {case['repeats']})\n\n"
            text += "| | CPU s | x ours | wall s | x ours | peak MB | x ours |\n|---|---|---|---|---|---|---|\n"
            for row in case["contenders"]:
                if row["status"] != "ok":
                    text += f"| {row['name']} | {row['status']} | | | | | |\n"
                    continue
                ratio, peak = row["ratios_to_ours"], row["peak_bytes"]
                heavier = f"{ratio['peak_bytes']:.2f}" if "peak_bytes" in ratio else ""
                text += (
                    f"| {row['name']} | {row['cpu_s']:.3f} | {ratio['cpu_s']:.2f} | {row['wall_s']:.3f} "
                    f"| {ratio['wall_s']:.2f} | {'' if peak is None else f'{peak / 1e6:.0f}'} | {heavier} |\n"
                )
        text += "\n"
    return text


def augment_picture(name: str, file: str) -> None:
    """Draw eight training pictures above three versions of each, as a recipe augments them."""
    recipe = get_recipe(name)
    source = EmojiSource().open("train")
    assert recipe.augment is not None
    rows = range(0, len(source.rows), len(source.rows) // 8)[:8]
    pictures = [torch.tensor(list(source.image(r).tobytes())).view(64, 64, 3).permute(2, 0, 1) / 255 for r in rows]
    batch = torch.stack(pictures)
    generator = torch.Generator().manual_seed(0)
    augment = recipe.augment.replace(views=1)
    versions = [batch] + [augment.apply(batch, augment.draw(8, generator)) for _ in range(3)]
    grid = torch.cat([torch.cat(list(v), dim=2) for v in versions], dim=1)
    array = (grid * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(array).save(IMAGES / file, optimize=True)


def similarity_picture(run: Path) -> None:
    """Draw the similarities of held-out pictures and texts that a run's evaluation holds."""
    panel = next(p for p in load_evaluation(run / "evaluation" / "test").panels if isinstance(p, Heatmap))
    figure, axes = plt.subplots(figsize=(9, 9))
    axes.imshow(panel.values, cmap="viridis")
    axes.set_xticks(range(len(panel.columns)), [_short(item.text) for item in panel.columns], rotation=90, fontsize=7)
    axes.set_yticks(range(len(panel.rows)), [""] * len(panel.rows))
    for place, item in enumerate(panel.rows):
        if item.image is not None:
            axes.add_artist(
                AnnotationBbox(OffsetImage(item.image, zoom=0.3), (-1.1, place), frameon=False, annotation_clip=False)
            )
    axes.tick_params(length=0)
    figure.tight_layout()
    figure.savefig(IMAGES / "clip-similarity.png", dpi=80)
    plt.close(figure)


TRANSFORMATIONS = ("rotation", "scale", "translation", "mirror", "upside_down")


def invariance_picture() -> None:
    """Draw who is invariant to what, and who is equivariant beyond that, for every recorded image encoder."""
    found = {name: measured()[name]["metrics"] for name in ENCODERS if name in measured()}
    if not found:
        return
    one = next(iter(found.values()))
    rows = [(name, "", metrics) for name, metrics in found.items()]
    rows += [("random weights", "random_", one), ("raw pixels", "pixels_", one)]
    kinds = (
        ("invariance", "Invariance (1: nothing changes, 0: as different as another picture)"),
        ("gain", "Equivariance beyond it (share of the change that a linear map predicts)"),
    )
    figure, both = plt.subplots(1, 2, figsize=(11, 0.42 * len(rows) + 1.4), sharey=True)
    for axes, (kind, title) in zip(both, kinds, strict=True):
        values = np.array([[m[f"{prefix}{kind}_{t}"] for t in TRANSFORMATIONS] for _, prefix, m in rows], float)
        axes.imshow(values, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            ink = "white" if value < 0.6 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9, color=ink)
        axes.set_xticks(range(len(TRANSFORMATIONS)), [t.replace("_", " ") for t in TRANSFORMATIONS], fontsize=9)
        axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=9)
        axes.set_title(title, fontsize=9)
        axes.tick_params(length=0)
    figure.tight_layout()
    figure.savefig(IMAGES / "invariance.png", dpi=90)
    plt.close(figure)


def _short(text: str, most: int = 24) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def main() -> None:
    """Write everything; a run given as argument draws the pictures of results anew."""
    GENERATED.mkdir(exist_ok=True)
    IMAGES.mkdir(exist_ok=True)
    if len(sys.argv) > 1:
        similarity_picture(Path(sys.argv[1]))
    for name, text in EQUATIONS.items():
        equation(name, text)
    (GENERATED / "methods.md").write_text(methods_table(), encoding="utf-8")
    (GENERATED / "performance.md").write_text(performance_tables(), encoding="utf-8")
    for method in cards():
        (GENERATED / f"{method}.md").write_text(measured_table(method) + all_figures(method), encoding="utf-8")
    augment_picture("clip", "augment.png")
    augment_picture("simclr", "views.png")
    invariance_picture()
    (GENERATED / "image-encoders.md").write_text(encoders_table(), encoding="utf-8")
    (GENERATED / "features-network.md").write_text(figures_features.tables(), encoding="utf-8")
    (GENERATED / "generators.md").write_text(figures_generators.tables(), encoding="utf-8")
    (GENERATED / "speech.md").write_text(figures_speech.tables(), encoding="utf-8")
    (GENERATED / "captioners.md").write_text(figures_captioners.tables(), encoding="utf-8")
    (GENERATED / "vision.md").write_text(figures_vision.tables(), encoding="utf-8")
    readme = HERE.parent / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(START)
    after = rest.split(END)[1]
    table = methods_table().replace("](methods/", "](docs/methods/")
    readme.write_text(f"{before}{START}\n{table}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
