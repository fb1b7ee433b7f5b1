"""What is learned and what is lost when a model goes on learning."""
