"""What a chip vendor imports: the contract, kits to start from, and the tools that judge a platform."""
