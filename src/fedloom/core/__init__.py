"""Words of the language: values and protocols that every other layer speaks in."""
