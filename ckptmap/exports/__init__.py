"""One file for each form that rules can be exported in, and what these files share."""
