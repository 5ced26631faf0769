"""Every value that decides the content of a corpus, as gin-configurable dataclasses: a module for each topic."""
