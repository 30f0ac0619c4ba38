"""Quality prompts: the captioners, their cache, and whole folders of captions."""
