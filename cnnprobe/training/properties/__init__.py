"""Known formulas, how functions of them are named, and a property that every correct one has."""

from cnnprobe.training.formula_calls import Formula
from cnnprobe.training.properties.distributions import (
    check_divergence,
    check_likelihood,
    check_reparametrisation,
)
from cnnprobe.training.properties.gates import check_gate, check_gru, check_lstm
from cnnprobe.training.properties.labels import (
    check_binary,
    check_focal,
    check_smoothing,
)
from cnnprobe.training.properties.layers import (
    check_attention,
    check_dropped_paths,
    check_error,
    check_norm,
    check_pairs,
    check_positions,
    check_returns,
    check_signed_pairs,
    check_triplet,
)
from cnnprobe.training.properties.overlaps import check_overlap
from cnnprobe.training.properties.pictures import (
    check_gram,
    check_iou,
    check_mixture,
    check_noise_ratio,
    check_noising,
    check_similarity_of_pictures,
    check_variation,
)
from cnnprobe.training.properties.teachers import check_teacher

__all__ = ["FORMULAS"]

FORMULAS = (
    Formula(
        name="reparametrisation",
        pattern=r"repar|sample_?(z|latent|gauss)|rsample",
        check=check_reparametrisation,
        fix="mean + std * noise, where std = exp(0.5 * logvar) of a log-variance",
        source="Kingma & Welling 2014, arXiv:1312.6114, section 2.4",
    ),
    Formula(
        name="focal loss",
        pattern=r"focal",
        check=check_focal,
        fix="(1 - p) ** gamma * cross entropy, where p is the probability of the label",
        source="Lin et al. 2017, arXiv:1708.02002, equation 4",
        without=r"dice|tversky|combo|modul|heat|gauss|quality|vari|center|net|block",
    ),
    Formula(
        name="likelihood of a normal distribution",
        pattern=(
            r"gauss.*(nll|loss|likel)|nll.*gauss|heterosced|aleatoric"
            r"|log_?(normal|gauss|prob|density|likelihood|pdf)|normal_(log|pdf)"
        ),
        check=check_likelihood,
        fix="0.5 * (log(var) + (target - mean) ** 2 / var)",
        source="torch.nn.GaussianNLLLoss; Nix & Weigend 1994",
    ),
    Formula(
        name="divergence from the standard normal distribution",
        pattern=r"(^|_)kl|diverg|elbo|vae|loss",
        check=check_divergence,
        fix="-0.5 * (1 + logvar - mean ** 2 - exp(logvar)) of a log-variance",
        source="Kingma & Welling 2014, arXiv:1312.6114, appendix B",
        without=r"nll|gauss|free|heterosced|aleatoric",
    ),
    Formula(
        name="overlap",
        pattern=r"dice|jaccard|tversky",
        check=check_overlap,
        fix="2 * shared / (sum + sum), or shared / (sum + sum - shared)",
        source="Milletari et al. 2016, arXiv:1606.04797, section 3",
        without=r"focal|generali|boundary|surface",
    ),
    Formula(
        name="overlap of boxes",
        pattern=r"(^|_)[a-z]?iou(_|$)|box.*overlap",
        check=check_iou,
        fix="shared / (area + area - shared), of sides that are at least 0",
        source="torchvision.ops.box_iou",
    ),
    Formula(
        name="mixture of images",
        pattern=r"mix_?up|cut_?mix",
        check=check_mixture,
        fix="share * x + (1 - share) * x[order], from one and the same x",
        source="Zhang et al. 2018, arXiv:1710.09412, section 2",
    ),
    Formula(
        name="smoothed labels",
        pattern=r"smooth.*(label|cross|entropy|nll|(^|_)ce(_|$))|(label|cross|entropy).*smooth",
        check=check_smoothing,
        fix="(1 - s) * one_hot + s / classes, which sums to 1",
        source="Szegedy et al. 2016, arXiv:1512.00567, section 7",
        without=r"l1|dice",
    ),
    Formula(
        name="cross entropy",
        pattern=r"(^|_)(cross_entropy|ce|softmax)_?(loss)?$",
        check=check_smoothing,
        fix="-log_softmax(logits)[label]",
        source="torch.nn.CrossEntropyLoss",
        without=r"binary|bce|focal|smooth|balanced",
    ),
    Formula(
        name="binary cross entropy",
        pattern=r"(^|_)(bce|binary_cross_entropy)(_loss)?$",
        check=check_binary,
        fix="-(y * log(p) + (1 - y) * log(1 - p))",
        source="torch.nn.BCELoss",
        without=r"smooth|focal|dice",
    ),
    Formula(
        name="total variation",
        pattern=r"total_?var|(^|_)tv(_|$)",
        check=check_variation,
        fix="differences of neighbours along height and along width",
        source="Rudin et al. 1992",
    ),
    Formula(
        name="Gram matrix",
        pattern=r"(^|_)gram(_|$)|gram_?mat",
        check=check_gram,
        fix="features of shape (N, C, H * W) times their transpose",
        source="Gatys et al. 2016, section 2",
    ),
    Formula(
        name="structural similarity",
        pattern=r"(^|_)ssim(_|$)",
        check=check_similarity_of_pictures,
        fix="(2ab + c1)(2cov + c2) / ((a2 + b2 + c1)(var + var + c2))",
        source="Wang et al. 2004, equation 13",
    ),
    Formula(
        name="attention",
        pattern=r"attention|(^|_)sdpa|(^|_)attend",
        check=check_attention,
        fix="softmax over the keys, the last dim of query @ key.transpose(-2, -1)",
        source="Vaswani et al. 2017, arXiv:1706.03762, equation 1",
        without=r"linear|relu|retent|efficient|fast|spars",
    ),
    Formula(
        name="normalisation",
        pattern=r"^(my|custom|own)?_?(layer|rms|group|instance|pixel)_?norm(\\w?\\d?d)?$",
        check=check_norm,
        fix="(x - mean) / sqrt(var + eps)",
        source="Ba et al. 2016, arXiv:1607.06450, equation 4",
    ),
    Formula(
        name="stochastic depth",
        pattern=r"drop_?path|stochastic_?depth",
        check=check_dropped_paths,
        fix="x * mask / (1 - p), with a mask for each sample",
        source="Huang et al. 2016, arXiv:1603.09382; torchvision.ops.stochastic_depth",
    ),
    Formula(
        name="triplet loss",
        pattern=r"triplet",
        check=check_triplet,
        fix="relu(distance(a, p) - distance(a, n) + margin)",
        source="Schroff et al. 2015, arXiv:1503.03832, equation 2",
    ),
    Formula(
        name="contrast of pairs",
        pattern=r"info_?nce|nt_?xent|simclr|(^|_)clip_loss",
        check=check_pairs,
        fix="cross entropy of the similarities, with the pair itself as the label",
        source="van den Oord et al. 2018, arXiv:1807.03748, equation 4",
    ),
    Formula(
        name="contrast of labelled pairs",
        pattern=r"contrastive",
        check=check_signed_pairs,
        fix="same * d ** 2 + (1 - same) * relu(margin - d) ** 2",
        source="Hadsell et al. 2006, equation 4",
        without=r"supervised|supcon",
    ),
    Formula(
        name="sum of discounted rewards",
        pattern=r"discount|returns?(_|$)|rewards?_?to_?go|(^|_)gae(_|$)",
        check=check_returns,
        fix="from the last step to the first: total = reward + gamma * total * (1 - done)",
        source="Sutton & Barto 2018, equation 3.9",
    ),
    Formula(
        name="positional encoding",
        pattern=r"positional|sinusoid|pos_?enc",
        check=check_positions,
        fix="sin at the even and cos at the odd features, of the same angles",
        source="Vaswani et al. 2017, arXiv:1706.03762, section 3.5",
        without=r"relative|rotary|learn|cond|noise|time",
    ),
    Formula(
        name="error",
        pattern=r"(^|_)(mse|mae|rmse|huber|smooth_l1|log_?cosh|charbonnier|wing|berhu)(_|$)",
        check=check_error,
        fix="an error that is 0 where both are the same and grows with their difference",
        source="torch.nn.HuberLoss",
        without=r"grad|reg|penal|norm|ssim|dice",
    ),
    Formula(
        name="gate of channels or positions",
        pattern=(
            r"^se_?(layer|block|module|unit|attention|gate)?$|squeeze_?(and_?)?excit|^eca"
            r"|^(channel|spatial)_?(attention|attn|gate)"
        ),
        check=check_gate,
        fix="x * sigmoid(...), with weights between 0 and 1",
        source="Hu et al. 2018, arXiv:1709.01507, equation 3",
    ),
    Formula(
        name="cell of an LSTM",
        pattern=r"lstm_?cell|(^|_)lstmcell",
        check=check_lstm,
        fix="c = f * c + i * tanh(g), h = o * tanh(c)",
        source="Hochreiter & Schmidhuber 1997; Shi et al. 2015, arXiv:1506.04214, equation 3",
        without=r"min|slstm|mlstm|xlstm|s_lstm|m_lstm|x_lstm",
    ),
    Formula(
        name="cell of a GRU",
        pattern=r"gru_?cell",
        check=check_gru,
        fix="h = (1 - z) * n + z * h, where n is a tanh",
        source="torch.nn.GRUCell",
        without=r"min",
    ),
    Formula(
        name="peak signal-to-noise ratio",
        pattern=r"(^|_)psnr",
        check=check_noise_ratio,
        fix="-10 * log10(1 / mse), or the mean squared error itself",
        source="Hore & Ziou 2010, equation 1",
    ),
    Formula(
        name="noising of an image",
        pattern=r"q_?sample|nois(e|y|ing)|forward_?diffus|(^|_)diffuse|perturb",
        check=check_noising,
        fix="sqrt(alpha_bar) * image + sqrt(1 - alpha_bar) * noise",
        source="Ho et al. 2020, arXiv:2006.11239, equation 4",
    ),
    Formula(
        name="distillation of a teacher that knows these samples",
        pattern=r"(^|_)kd(_|$)|distil|(^|_)teach",
        check=check_teacher,
        fix=(
            "give each sample the teacher's outputs of itself: teacher(x) within the step, or by "
            "the index of the sample; a loader that shuffles has another order each time"
        ),
        source="Hinton et al. 2015, arXiv:1503.02531, section 2",
    ),
)
