"""An HTTP server for a model that learns: the OpenAI API, memories, and a web page."""
