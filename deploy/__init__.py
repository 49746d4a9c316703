"""Running the server: on this machine (server.py), and what containers need."""
