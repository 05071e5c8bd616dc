"""One module per command of ``mindscaip``; each has ``register(app)`` and imports heavy rooms only when it runs."""
