"""Entry points of the functions in the cloud, a module each: a function imports only its own. No logic here."""
