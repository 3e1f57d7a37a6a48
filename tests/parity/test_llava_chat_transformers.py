"""Chat templates of published LLaVA folders against transformers' processor, and a trained LLaVA that transformers loads."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

transformers = pytest.importorskip("transformers")

from intermodal.core.captioning import Captioning  # noqa: E402
from intermodal.core.chat import Turn  # noqa: E402
from intermodal.core.errors import CheckpointError, DataError  # noqa: E402
from intermodal.data.chat import READ, WRITTEN, ChatFormat  # noqa: E402
from intermodal.data.chat_template import messages_of, rendered  # noqa: E402
from intermodal.hub.load import load  # noqa: E402
from intermodal.hub.save import export  # noqa: E402
from published_llava import CHATS, SIZE, close, picture, published  # noqa: E402
from toy_captioner import pictures  # noqa: E402
from toy_llava import ANSWERS, ASKED, FRUIT, chats, learn, tiny  # noqa: E402

PARTS = "{% for part in message['content'] %}{% if part['type'] == 'TYPE' %}WHAT{% endif %}{% endfor %}"
IMAGES, TEXTS = (
    PARTS.replace("TYPE", kind).replace("WHAT", what)
    for kind, what in (("image", "{{ '<image>\n' }}"), ("text", "{{ part['text'] + ' ' }}"))
)
TEMPLATES = {
    "one": "{% for message in messages %}{{ message['role'].upper() + ': ' }}" + IMAGES + TEXTS + "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
    "framed": """{{ bos_token }}
{%- for message in messages %}
    {% set about = namespace(seen=false) %}
    {%- for part in message.content %}
        {%- if part.type == 'image' %}
            {%- set about.seen = true %}
            {{- '<image>' }}
        {%- elif loop.index > 9 %}{% break %}
        {%- else %}
            {%- if message.role == 'assistant' %}
                {{- ' say ' }}{% generation %}{{ part.text | trim }}{{ eos_token }}{% endgeneration %}
            {%- else %}
                {{- 'ask ' ~ part.text ~ (' seen' if about.seen else '') }}
            {%- endif %}
        {%- endif %}
    {%- endfor %}
{%- endfor %}
{%- if add_generation_prompt %}{{ ' say ' }}{% endif %}""",
    "listed": "{% for message in messages %}{{ message.role | tojson }}{{ {'a': 'é<b>', 'n': loop.index0} | tojson }}"
    + IMAGES
    + "{{ message.content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join('|') }}{% endfor %}"
    "{{ dict(on=add_generation_prompt).on }}",
}


@pytest.fixture(params=list(TEMPLATES))
def pair(request, tmp_path):
    """Return transformers' processor, ours as loaded from the folder that it saves, the template and the folder."""
    theirs, tokenizer, image = published("plain")
    theirs.save_pretrained(tmp_path)
    processor = transformers.LlavaProcessor(
        image_processor=image,
        tokenizer=tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATES[request.param],
    )
    processor.save_pretrained(tmp_path)
    return processor, load(tmp_path), TEMPLATES[request.param], tmp_path


def theirs_of(chat):
    """Return a chat as transformers' processor takes it, the pictures within."""
    found = messages_of(chat)
    shown = iter([shown for turn in chat for shown in turn.pictures])
    for message in found:
        for part in message["content"]:
            if part["type"] == "image":
                part["image"] = next(shown)
    return found


MORE = [
    *CHATS,
    [Turn("No picture here?")],
    [Turn("A {% if %} and {{ x }}?", "It <b>rains</b> é", (picture(0),)), Turn("red\n\n blue", None, (picture(1),))],
]


def test_prompts_are_those_of_apply_chat_template(pair):
    processor, ours, template, _ = pair
    assert ours.chats.form.template == template
    tokens = {name: processor.tokenizer.special_tokens_map[name] for name in ("bos_token", "eos_token")}
    for chat in MORE:
        given = theirs_of(chat)
        assert rendered(template, chat, tokens) == processor.apply_chat_template(given, add_generation_prompt=True)
        wanted = processor.apply_chat_template(given, add_generation_prompt=True, tokenize=True, return_dict=True)
        assert ours.chats.chat(chat)[0] == wanted["input_ids"][0]
    assert ours.answer(CHATS, Captioning(most=4)), "what is read is what was rendered"


@pytest.mark.parametrize("place", ["chat_template.json", "tokenizer_config.json", "several", "none"])
def test_templates_are_found_wherever_they_are_published(pair, place):
    _, _, template, folder = pair
    (folder / "chat_template.jinja").unlink()
    if place == "chat_template.json":
        (folder / place).write_text(json.dumps({"chat_template": template}))
    elif place != "none":
        file = folder / "tokenizer_config.json"
        named = [{"name": "tools", "template": "x"}, {"name": "default", "template": template}]
        said = {"chat_template": named if place == "several" else template}
        file.write_text(json.dumps(json.loads(file.read_text()) | said))
    assert load(folder).chats.form == (ChatFormat() if place == "none" else ChatFormat(template=template))


def test_what_is_learnt_is_each_answer_with_what_closes_it(pair):
    _, ours, template, _ = pair
    chat = [Turn("A square?", "It rains", (picture(0),)), Turn("red?", "blue")]
    if "selectattr" in template:  # what it writes at the end changes with what comes
        with pytest.raises(DataError, match="turn after turn"):
            ours.chats.encode(chat)
        return
    ids, kinds = ours.chats.chat(chat)
    assert ids[-1] == ours.chats.eos_id and len(ids) == len(kinds) and set(kinds) == {READ, WRITTEN}
    said = ours.chats.tokenizer.decode([t for t, kind in zip(ids, kinds, strict=True) if kind == WRITTEN])
    assert said.split() == ["It", "rains", "blue"]


def test_a_template_cannot_reach_out_of_its_sandbox():
    chat = [Turn("x")]
    for text in (
        "{{ messages.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('no such role') }}",
    ):
        with pytest.raises(DataError, match="does not take this chat"):
            rendered(text, chat, {})
    with pytest.raises(DataError, match="no valid template"):
        rendered("{% for %}", chat, {})


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return a trained LLaVA and the folder that it was exported to."""
    model = learn(tiny(), 60)
    folder = tmp_path_factory.mktemp("export") / "llava"
    export(model, folder)
    return model, folder


@torch.no_grad()
def test_transformers_loads_what_is_exported_and_says_the_same(exported):
    model, folder = exported
    theirs = transformers.LlavaForConditionalGeneration.from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    asked = [[Turn(ASKED, None, (picture,))] for picture in pictures()]
    asked += [[turns[0], Turn(FRUIT)] for turns in chats()]
    said = model.answer(asked)
    assert [c.text for c in said[:4]] == ANSWERS
    for chat, wanted in zip(asked, said, strict=True):
        given = processor.apply_chat_template(
            theirs_of(chat), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        ids = given["input_ids"]
        assert ids[0].tolist() == model.chats.chat(chat)[0]
        given.pop("token_type_ids", None)
        prompt, _ = model.prompt([chat])
        close(model.language.network(prompt), theirs(**given).logits, 1e-4)
        made = theirs.generate(**given, do_sample=False, max_new_tokens=12)[0, ids.shape[1] :]
        assert processor.decode(made, skip_special_tokens=True).strip() == wanted.text


def test_exported_and_loaded_back_it_answers_the_same(exported):
    model, folder = exported
    again = load(folder)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    asked = [[Turn(ASKED, None, (picture,))] for picture in pictures()]
    assert [c.text for c in again.answer(asked)] == [c.text for c in model.answer(asked)]
    assert [c.text for c in again.answer([[turns[0], Turn(FRUIT)] for turns in chats()])] == ["that cannot be seen"] * 4


def test_a_published_folder_exported_again_holds_the_same_tensors(tmp_path):
    theirs, tokenizer, image = published("several")
    for part in (theirs, tokenizer, image):
        part.save_pretrained(tmp_path / "one")
    export(load(tmp_path / "one"), tmp_path / "two")
    again = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "two")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in theirs.state_dict().items())
    assert again.config.vision_config.image_size == SIZE
    shutil.rmtree(tmp_path / "one")


def test_what_has_no_published_layout_is_refused(tmp_path):
    for model, match in ((tiny(True), "ResNet"), (tiny(projector="linear"), "two layers")):
        with pytest.raises(CheckpointError, match=match):
            export(model, tmp_path / "x")
    assert not (tmp_path / "x").exists()
