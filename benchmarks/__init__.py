"""How fast is it, and what does that cost? One module a question; each prints JSON last."""
