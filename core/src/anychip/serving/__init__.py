"""OpenAI's API over HTTP. `create_app` in app.py is the ASGI application, `serve` in server.py runs it."""
