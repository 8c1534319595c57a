"""The truth report: numbers, figures and the page that shows them."""
