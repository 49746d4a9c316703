"""BentoML, as its documentation teaches it."""
