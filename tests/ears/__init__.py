"""How well a call hears people: through quiet microphones (:mod:`.quiet`) and over lossy networks (:mod:`.loss`)."""
