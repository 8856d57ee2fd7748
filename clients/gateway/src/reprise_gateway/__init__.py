"""OpenAI-compatible HTTP front of a Reprise server. Keeps no state: sessions live on the server.

`app.create_app` makes the ASGI application, `main` is the program.
"""
