"""The one door to ART: nothing outside this folder imports it."""
