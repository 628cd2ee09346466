"""What tests of engines need; not used by the engine itself."""
