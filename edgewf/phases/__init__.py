"""The two phases of entropy minimisation, seen from the embeddings (Press et al., ICML 2024).

At first a burst draws the embeddings of the window toward those of clean images; after many steps
it drives them away again, and the accuracy falls.
"""
