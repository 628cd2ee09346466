"""`python -m ziggurat_engine` is the command ziggurat-engine."""

from ziggurat_engine.cli import main

if __name__ == "__main__":
    main()
