"""Bad inputs of the command: each with its exit code, what is said of it, and a clue to the
repair.
"""

MODELS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, out=2):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, out)
    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))

class GivesADict(Net):
    def forward(self, x):
        return {"logits": super().forward(x)}

class GivesANumber(Net):
    def forward(self, x):
        return super().forward(x).mean()

class Needs(nn.Module):
    def __init__(self, width, depth):
        super().__init__()

class Raises(nn.Module):
    def __init__(self):
        super().__init__()
        raise ValueError("no such width")

class Silent(nn.Module):
    def __init__(self):
        raise RuntimeError

class Multiline(nn.Module):
    def __init__(self):
        raise RuntimeError("first\\n" + "more\\n" * 50)

class Quits(nn.Module):
    def __init__(self):
        raise SystemExit(0)

class QuitsInForward(Net):
    def forward(self, x):
        raise SystemExit(0)

class Nothing(nn.Module):
    def forward(self, x):
        return x

class Dataset:
    pass

number = 3
text = "resnet"
weights = {"conv.weight": torch.zeros(1)}

def returns_nothing():
    pass

def touches_a_name():
    raise ValueError("\\x1b[2J[bold]name[/bold]")
"""


NET = "bad_models.py:Net"


BAD = {
    "no SPEC": ([], 2, "Missing argument 'SPEC'", "--help"),
    "no form of a SPEC": (["resnet18"], 2, "does not name a model", "torchvision:NAME"),
    "empty SPEC": ([""], 2, "does not name a model", "pkg.mod:attr"),
    "only a colon": ([":"], 2, "does not name a model", "pkg.mod:attr"),
    "missing file": (["nett.py:Net"], 2, "there is no file 'nett.py'", "SPEC"),
    "near file": (["bad_model.py:Net"], 2, "there is no file", "did you mean 'bad_models.py'"),
    "folder": (["sub:Net"], 2, "has no 'Net'", "SPEC"),
    "folder path": (["./sub:Net"], 2, "is a folder", "net.py:Class"),
    "file without class": (["bad_models.py"], 2, "names a file but no model", "bad_models.py:Net"),
    "missing module": (["no_such_pkg.mod:Net"], 2, "there is no module 'no_such_pkg'", "install"),
    "missing attribute": (["bad_models.py:Nett"], 2, "has no 'Nett'", "did you mean 'Net'?"),
    "a number": (["bad_models.py:number"], 2, "names an int, not a model", "torch.nn.Module"),
    "a string": (["bad_models.py:text"], 2, "names a str, not a model", "torch.nn.Module"),
    "a dict": (["bad_models.py:weights"], 2, "names a dict, not a model", "torch.nn.Module"),
    "a module": (
        ["bad_models.py:torch"],
        2,
        "names the module torch, not a model",
        "torch.nn.Module",
    ),
    "another class": (
        ["bad_models.py:Dataset"],
        2,
        "names the class Dataset, not a model",
        "torch.nn.Module",
    ),
    "factory of nothing": (
        ["bad_models.py:returns_nothing"],
        2,
        "returned a NoneType, not a model",
        "torch.nn.Module",
    ),
    "needs arguments": (
        ["bad_models.py:Needs"],
        2,
        "needs arguments: width, depth",
        "--arg width=... --arg depth=...",
    ),
    "unknown argument": (
        [NET, "--arg", "ouut=3"],
        2,
        "takes no argument 'ouut'",
        "did you mean 'out'?",
    ),
    "malformed argument": (
        [NET, "--arg", "out"],
        2,
        "is not a constructor argument",
        "--arg name=value",
    ),
    "syntax error": (["bad_syntax.py:Net"], 3, "is not valid Python", "bad_syntax.py:2"),
    "null bytes": (["bad_bytes.py:Net"], 3, "bad_bytes.py", "bad_bytes.py"),
    "import error inside": (
        ["bad_import.py:Net"],
        3,
        "No module named 'not_installed_anywhere'",
        "bad_import.py:2",
    ),
    "name error inside": (
        ["bad_name.py:Net"],
        3,
        "cannot import name 'no_such_thing'",
        "bad_name.py:1",
    ),
    "relative import": (["bad_relative.py:Net"], 3, "relative import", "pkg.mod:Class"),
    "no model in the file": (
        ["bad_empty.py:Net"],
        2,
        "bad_empty.py has no 'Net'",
        "define the model there",
    ),
    "raises on import": (
        ["bad_raises.py:Net"],
        3,
        "ZeroDivisionError: division by zero",
        "bad_raises.py:1",
    ),
    "exits on import": (["bad_exits.py:Net"], 3, "called sys.exit(2)", "__main__"),
    "raises in module form": (["bad_raises:Net"], 3, "ZeroDivisionError", "bad_raises.py:1"),
    "constructor raises": (
        ["bad_models.py:Raises"],
        3,
        "ValueError: no such width",
        "bad_models.py:28",
    ),
    "constructor raises nothing to say": (
        ["bad_models.py:Silent"],
        3,
        "raised RuntimeError",
        "bad_models.py:32",
    ),
    "constructor raises fifty lines": (
        ["bad_models.py:Multiline"],
        3,
        "RuntimeError: first",
        "bad_models.py:36",
    ),
    "constructor exits": (["bad_models.py:Quits"], 3, "SystemExit", "bad_models.py:40"),
    "forward exits": (["bad_models.py:QuitsInForward"], 3, "called sys.exit(", "forward"),
    "control characters in a message": (
        ["bad_models.py:touches_a_name"],
        3,
        "\\x1b[2J[bold]name[/bold]",
        "bad_models.py",
    ),
    "control characters in a SPEC": (["bad_models.py:\x1b[31mred"], 2, "\\x1b[31mred", "SPEC"),
    "no default input": (["bad_models.py:Nothing"], 2, "no Conv2d or Linear", "--input 1,3,32,32"),
    "unknown zoo name": (
        ["torchvision:resnett18"],
        2,
        "torchvision has no model 'resnett18'",
        "did you mean 'resnet18'",
    ),
    "weights as SPEC": (["good.pt"], 2, "contains weights, not a model", "--weights good.pt"),
    "missing exported program": (["none.pt2"], 2, "there is no file", "check the path"),
    "truncated exported program": (
        ["cut.pt2", "--trust-pickle"],
        3,
        "is truncated",
        "save it again",
    ),
    "arguments of an instance": (
        ["torch.nn:Module", "--arg", "x=1"],
        3,
        "TypeError",
        "SPEC|correct",
    ),
    "missing weights": (
        [NET, "--weights", "godo.pt"],
        2,
        "is not there",
        "did you mean 'good.pt'?",
    ),
    "folder as weights": ([NET, "--weights", "sub"], 2, "is a folder", "weights"),
    "truncated weights": (
        [NET, "--weights", "cut.pt"],
        3,
        "cut.pt is truncated or damaged",
        "copy or download|safetensors",
    ),
    "truncated safetensors": (
        [NET, "--weights", "cut.safetensors"],
        3,
        "is truncated or damaged",
        "copy or download it again",
    ),
    "impossible safetensors": (
        [NET, "--weights", "huge.safetensors"],
        3,
        "is truncated or damaged",
        "copy or download it again",
    ),
    "text as weights": ([NET, "--weights", "text.pt"], 3, "is not a checkpoint", "safetensors"),
    "pointer as weights": ([NET, "--weights", "lfs.pt"], 3, "Git LFS pointer", "safetensors"),
    "empty weights": ([NET, "--weights", "empty.pt"], 3, "is empty", "safetensors"),
    "list as weights": (
        [NET, "--weights", "list.pt"],
        3,
        "contains a list, not a state_dict",
        "model.state_dict()",
    ),
    "other weights": (
        [NET, "--weights", "other.pt"],
        3,
        "does not fit Net: 4 missing, 1 unexpected",
        "--arg",
    ),
    "malicious weights": ([NET, "--weights", "bomb.pt"], 3, "would run code", "--trust-pickle"),
    "malicious pickle": (
        [NET, "--weights", "bomb.pkl.pt"],
        3,
        "bomb.pkl.pt",
        "--trust-pickle|again",
    ),
    "malicious input": ([NET, "--input", "bomb.pt"], 3, "would run code", "state_dict"),
    "letters as shape": ([NET, "--input", "1,3,a,b"], 2, "neither a shape nor a file", "1,3,32,32"),
    "empty input": ([NET, "--input", ""], 2, "shape", "1,3,32,32"),
    "double comma": ([NET, "--input", "1,,3"], 2, "'1,,3' is not a shape", "1,3,32,32"),
    "brackets": ([NET, "--input", "(1,3,8,8)"], 2, "is not a shape", "1,3,32,32"),
    "fraction": ([NET, "--input", "1,3,8.5,8"], 2, "is not a shape", "1,3,32,32"),
    "negative shape": ([NET, "--input", "1,-3,8,8"], 2, "has a size of -3", "at least 1"),
    "zero shape": ([NET, "--input", "1,3,0,8"], 2, "has a size of 0", "at least 1"),
    "large shape": (
        [NET, "--input", "1000000,3,10000,10000"],
        2,
        "takes 1.04 PiB|takes 1.1 PiB",
        "--device meta",
    ),
    "absurd shape": (
        [NET, "--input", ",".join(["999999999999999999"] * 8)],
        2,
        "EiB",
        "--device meta",
    ),
    "absurd number": ([NET, "--input", "1" * 400], 2, "is not a shape", "1,3,32,32"),
    "input given twice": (
        [NET, "--input", "x=1,2", "--input", "x=1,2"],
        2,
        "'x' is given twice",
        "once",
    ),
    "missing input file": (
        [NET, "--input", "none.pt"],
        2,
        "there is no file 'none.pt'",
        "--input none.pt",
    ),
    "broken array": ([NET, "--input", "text.npy"], 3, "contains no array", "numpy.save"),
    "truncated array": ([NET, "--input", "cut.npy"], 3, "contains no array", "numpy.save"),
    "broken picture": ([NET, "--input", "text.png"], 3, "is not a readable image", "PNG or JPEG"),
    "truncated input": ([NET, "--input", "cut.pt"], 3, "truncated or damaged", "cut.pt"),
    "unknown kind of input": (
        [NET, "--input", "text.csv"],
        2,
        "cannot be read from a .csv file",
        "1,3,32,32",
    ),
    "folder as input": ([NET, "--input", "sub"], 2, "is a folder", "1,3,32,32"),
    "unknown dtype": (
        [NET, "--dtype", "float23"],
        2,
        "unknown dtype 'float23'",
        "did you mean 'float32'",
    ),
    "unknown device": (
        [NET, "--device", "gpu"],
        2,
        "device 'gpu' is not available",
        "--device cpu",
    ),
    "absent device": (
        [NET, "--device", "cuda:77"],
        2,
        "device 'cuda:77' is not available",
        "--device cpu",
    ),
    "depth out of range": ([NET, "--depth", "-1"], 2, "-1 is not in the range", "--help"),
    "seed out of range": ([NET, "--seed", "-1"], 2, "-1 is not in the range", "--help"),
    "width out of range": ([NET, "--width", "3"], 2, "3 is not in the range", "--help"),
    "depth no number": ([NET, "--depth", "deep"], 2, "'deep' is not a valid", "--help"),
    "unknown option": ([NET, "--dpeth", "1"], 2, "No such option", "--help"),
    "unknown format": ([NET, "--format", "pdf"], 2, "no format named 'pdf'", "--help"),
    "unknown suffix": ([NET, "-o", "out.docx"], 2, "no format has the suffix '.docx'", "--format"),
    "unwritable folder": (
        [NET, "-o", "none/out.json"],
        2,
        "there is no folder 'none'",
        "-o none/out.json",
    ),
    "a file as folder": (
        [NET, "-o", "file/out.json"],
        2,
        "the result cannot be written",
        "-o file/out.json",
    ),
    "a folder without a format": ([NET, "-o", "sub"], 2, "'sub' is a folder", "sub/report.html"),
    "a folder as output": ([NET, "-o", "sub", "--format", "json"], 2, "it is a folder", "-o sub"),
    "unknown check": ([NET, "--fail-on", "naan"], 2, "'naan' is not", "--help"),
    "two views": (
        [NET, "--parameters", "--explain-shapes"],
        2,
        "cannot be combined",
        "one of them",
    ),
}


LOSS = ["--input", "1,3,8,8", "--loss", "cross_entropy"]


BAD_DIAGNOSIS = {
    "targets of no shape": (
        [NET, *LOSS, "--targets", "two"],
        2,
        "neither a shape nor a file",
        "--targets two",
    ),
    "targets of a negative size": (
        [NET, *LOSS, "--targets", "1,-1"],
        2,
        "size of -1",
        "--targets 1,-1",
    ),
    "targets in no file": (
        [NET, *LOSS, "--targets", "no.pt"],
        2,
        "there is no file 'no.pt'",
        "--targets no.pt",
    ),
    "targets that run code": ([NET, *LOSS, "--targets", "bomb.pt"], 3, "bomb.pt", "bomb.pt"),
    "a loss of a dict": (
        ["bad_models.py:GivesADict", *LOSS],
        2,
        "the model's output, a dict",
        "loss_fn of your own",
    ),
    "a loss of a number": (
        ["bad_models.py:GivesANumber", *LOSS],
        2,
        "the model's output, a single number",
        "loss_fn of your own",
    ),
    "an optimizer needs a loss": (
        [NET, "--input", "1,3,8,8", "--optimizer", "adam"],
        2,
        "needs a loss",
        "--loss cross_entropy",
    ),
    "an optimizer that there is not": (
        [NET, *LOSS, "--optimizer", "adamm"],
        2,
        "no optimizer named 'adamm'",
        "did you mean 'adam'",
    ),
    "a rate that is not a number": (
        [NET, *LOSS, "--optimizer", "adam:lr=fast"],
        2,
        "cannot be built",
        "adam:lr=1e-3",
    ),
}
