"""Methods that turn pictures into tokens or latents, and back."""
