"""The HTTP server: options, certificates, pages, signalling, and which calls have a place."""
