"""What a request is told that cannot be answered."""


class Refusal(Exception):
    """An HTTP status, and a sentence for whoever asked. after: seconds from which on it is worth another try."""

    def __init__(self, status: int, sentence: str, after: int | None = None):
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.after = after
