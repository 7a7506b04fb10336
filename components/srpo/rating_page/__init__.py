"""Make the page on which people rate a run's images, blind, and the key that stays behind."""
