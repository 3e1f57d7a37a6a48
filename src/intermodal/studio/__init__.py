"""A page on which a model is used by hand, a tab for each capability (needs the extra ``studio``)."""
