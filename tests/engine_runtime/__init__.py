"""The engine as a service: conformance, worker process, scheduling, benchmark."""
