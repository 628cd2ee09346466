"""How is what was asked for found, put together, and sent?"""
