"""The ground floor: errors for people, files, devices, generators, environment."""
