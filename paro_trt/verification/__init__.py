"""How far an exported model is from the model it was made from."""
