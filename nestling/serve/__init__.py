"""A model that learns, behind HTTP: answers as the OpenAI API gives them, memories, a page."""
