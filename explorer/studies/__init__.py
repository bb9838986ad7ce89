"""How the committed results, the gallery and the bundled files were made. `precompute` lists the parts; nothing of the
product imports this folder."""
