"""Plans and sensitivity reports for people: tables and figures."""
