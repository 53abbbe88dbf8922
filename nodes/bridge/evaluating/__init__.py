"""Compare and Score: pictures of several ways, and what evaluators say of them. May use placing and fusing."""
