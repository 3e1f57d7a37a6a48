"""Speech: features, recognition, language models of words."""
