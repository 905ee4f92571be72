"""One detector, fitted on one category, under one attack: pictures, fit, gate, attack, verdict, results."""
