"""The networks: generator, inverter, image-text encoder, face descriptor."""
