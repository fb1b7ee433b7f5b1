"""The laboratory: what measures nestling. It imports the library, which never imports it."""
