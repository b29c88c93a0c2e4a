"""Statistics, figures and the claims table: everything that turns tables into statements with intervals."""
