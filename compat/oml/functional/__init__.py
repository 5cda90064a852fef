"""OML's figures of lists of ids, without the object that holds them."""
