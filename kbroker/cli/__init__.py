"""The command `kbroker`: one noun per file, each loaded only when it is used."""
