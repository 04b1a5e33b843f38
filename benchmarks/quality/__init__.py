"""Does it forget less? Every method on the same rows, compared by its frontier (see __main__)."""
