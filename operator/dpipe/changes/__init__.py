"""What an edit, or another version of the operator, would do to the pods that run; and how to go back."""
