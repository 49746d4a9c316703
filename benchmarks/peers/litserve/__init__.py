"""LitServe, as its documentation teaches it."""
