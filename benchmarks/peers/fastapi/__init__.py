"""FastAPI, as its documentation teaches it."""
