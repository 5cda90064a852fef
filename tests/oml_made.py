"""What OML's examples download, made: weights where a download of them would lie, and texts' networks in folders."""

from pathlib import Path

import torch


def make_dino_weights(hub: Path) -> Path:
    """Random weights of vits16_dino under the name of their address, in torch's cache `hub`."""
    import timm

    torch.manual_seed(0)
    file = hub / "checkpoints" / "dino_deitsmall16_pretrain.pth"
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(timm.create_model("vit_small_patch16_224.dino", num_classes=0).state_dict(), file)
    return file


def make_text_network(folder: Path, kind: str = "bert") -> Path:
    """A BERT, DistilBERT or RoBERTa of one layer, 768 wide, with random weights and a tokenizer of letters, as transformers saves."""
    import transformers

    torch.manual_seed(0)
    letters = [chr(code) for code in range(33, 127)]
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = marks + letters + [f"##{letter}" for letter in letters]
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    options = {
        "vocab_size": len(words),
        "hidden_size": 768,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 514,
        "pad_token_id": 0,
    }
    if kind == "bert":
        net = transformers.BertModel(transformers.BertConfig(**options))
    elif kind == "distilbert":
        net = transformers.DistilBertModel(transformers.DistilBertConfig(dim=768, n_layers=1, n_heads=4, hidden_dim=64))
    else:
        net = transformers.RobertaModel(transformers.RobertaConfig(**options))
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
