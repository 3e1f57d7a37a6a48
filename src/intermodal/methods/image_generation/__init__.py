"""Pictures from texts and from noise."""
