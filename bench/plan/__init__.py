"""What is to be done. Whatever is wrong with a request is found here, before any fit."""
