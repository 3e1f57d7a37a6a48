"""The tabs, one module each, which states a ``TAB``; the page shows those that fit the model."""
