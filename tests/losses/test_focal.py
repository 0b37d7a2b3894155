import pytest
import torch
import torch.nn.functional as F

from defcn_ext.losses import focal_loss_sum, product_logit, root_logit

NOTHING = torch.zeros(0, dtype=torch.long)


def dense_focal(logits, targets, alpha=0.25, gamma=2.0):
    p = logits.double().sigmoid()
    ce = F.binary_cross_entropy_with_logits(logits.double(), targets.double(), reduction="none")
    weight = torch.where(targets > 0, alpha * (1 - p) ** gamma, (1 - alpha) * p**gamma)
    return (weight * ce).sum()


@pytest.mark.parametrize(
    "p, positive, negative",
    [
        (0.5, 0.0433217, 0.1299651),
        (0.25, 0.1949476, 0.0134851),
        (0.01, 1.1283818, 7.53775e-7),
        (0.005, 1.3113667, 9.39852e-8),
    ],
)
def test_worked_values(p, positive, negative):
    """00-common, 'What to test'."""
    logit = torch.logit(torch.tensor([[p]], dtype=torch.float64)).float()
    zero = torch.tensor([0])
    assert focal_loss_sum(logit, zero, zero).item() == pytest.approx(positive, rel=2e-6)
    assert focal_loss_sum(logit, NOTHING, NOTHING).item() == pytest.approx(negative, rel=2e-5)


@pytest.mark.parametrize("bias, filtered, total", [(-4.595120, False, 1.35077), (-4.595120, True, 0.168421)])
def test_initial_background_loss_of_a_whole_image(bias, filtered, total):
    logits = torch.full((22400, 80), bias)
    if filtered:
        logits = product_logit(logits, torch.zeros(22400, 1))
    assert focal_loss_sum(logits, NOTHING, NOTHING).item() == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_value_and_gradient_equal_the_dense_form(gamma):
    logits = (torch.randn(50, 4) * 4).requires_grad_()
    rows, classes = torch.tensor([0, 7, 7, 49]), torch.tensor([3, 0, 1, 2])
    targets = torch.zeros(50, 4)
    targets[rows, classes] = 1
    expected = dense_focal(logits, targets, gamma=gamma)
    (expected_grad,) = torch.autograd.grad(expected, logits)
    value = focal_loss_sum(logits, rows, classes, gamma=gamma)
    (grad,) = torch.autograd.grad(3 * value, logits)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(grad, 3 * expected_grad.float(), rtol=1e-4, atol=1e-6)


WIDE = torch.linspace(-30, 30, 121)[:, None]  # one class; every logit in turn is the positive


def exact_focal(z, positive, alpha=0.25, gamma=2.0):
    """In float64, without a difference of nearly equal numbers. (M,) entry by entry."""
    z = torch.where(positive, -z, z)
    factor = torch.where(positive, alpha, 1 - alpha)
    return factor * (gamma * F.logsigmoid(z)).exp() * -F.logsigmoid(-z)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.0])
@pytest.mark.parametrize("positive", [True, False])
def test_every_logit_has_the_value_and_gradient_of_float64(gamma, positive):
    """A certain positive pulls by 1e-7 of what it would as background, so it must not be counted as one."""
    for z in WIDE:
        logit = z[None].clone().requires_grad_()
        exact = z.double().requires_grad_()
        expected = exact_focal(exact, torch.tensor([positive]), gamma=gamma).sum()
        where = torch.tensor([0]) if positive else NOTHING
        value = focal_loss_sum(logit, where, where, gamma=gamma)
        value.backward(), expected.backward()
        assert value.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-30), z
        assert logit.grad.item() == pytest.approx(exact.grad.item(), rel=1e-4, abs=1e-30), z


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("ignored", [[3, 0, 48], [3, 3], []])
def test_ignored_rows_add_nothing(gamma, ignored):
    """The loss and the gradients are those of the map without these rows, whatever stands in them."""
    logits = (torch.randn(50, 4) * 4).requires_grad_()
    rows, classes = torch.tensor([1, 7, 7, 49]), torch.tensor([3, 0, 1, 2])
    targets = torch.zeros(50, 4)
    targets[rows, classes] = 1
    kept = [i for i in range(50) if i not in ignored]
    expected = dense_focal(logits[kept], targets[kept], gamma=gamma)
    (expected_grad,) = torch.autograd.grad(expected, logits)
    broken = logits.detach().index_fill(0, torch.tensor(ignored[:1], dtype=torch.long), float("nan")).requires_grad_()
    ignored = torch.tensor(ignored, dtype=torch.long)
    for given in (logits, broken):
        value = focal_loss_sum(given, rows, classes, ignored=ignored, gamma=gamma)
        (grad,) = torch.autograd.grad(value, given)
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)
        torch.testing.assert_close(grad, expected_grad.float(), rtol=1e-4, atol=1e-6)
        assert not grad[ignored].any()


def test_ignored_rows_of_bfloat16_logits():
    logits = (torch.randn(30, 4) * 4).bfloat16().requires_grad_()
    row = torch.tensor([2])
    value = focal_loss_sum(logits, row, row, ignored=torch.tensor([5, 6]))
    value.backward()
    exact = focal_loss_sum(logits.float()[[*range(5), *range(7, 30)]], row, row)
    assert value.dtype == torch.float32 and logits.grad.dtype == torch.bfloat16
    torch.testing.assert_close(value, exact)
    assert logits.grad.isfinite().all() and logits.grad[:5].any(-1).all() and not logits.grad[5:7].any()


def test_gamma_0_and_alpha_half_is_half_of_cross_entropy():
    logits = torch.randn(20, 3)
    rows, classes = torch.arange(20), torch.arange(20) % 3
    expected = F.binary_cross_entropy_with_logits(logits, F.one_hot(classes, 3).float(), reduction="sum") / 2
    torch.testing.assert_close(focal_loss_sum(logits, rows, classes, alpha=0.5, gamma=0.0), expected)


@pytest.mark.parametrize(
    "a, b, z",
    [
        (0, 0, -1.0986123),
        (-4.5951199, 0, -5.2933048),
        (2, 1, 0.5923940),
        (-20, -20, -40.0),
        (-50, -50, -100.0),
        (30, 30, 29.3068528),
    ],
)
def test_product_logit_worked_values(a, b, z):
    a, b = torch.tensor(float(a)), torch.tensor(float(b))
    assert product_logit(a, b).item() == pytest.approx(z, rel=1e-6)
    assert product_logit(b, a).item() == pytest.approx(z, rel=1e-6)


def test_product_logit_in_double_is_the_logit_of_the_product():
    a, b = torch.randn(100, dtype=torch.float64) * 3, torch.randn(100, dtype=torch.float64) * 3
    torch.testing.assert_close(product_logit(a, b), torch.logit(a.sigmoid() * b.sigmoid()))
    assert torch.autograd.gradcheck(product_logit, (a[:5].requires_grad_(), b[:5].requires_grad_()))


def test_product_logit_has_the_gradient_of_its_formula_however_large_the_logits():
    """dz/da = e^-a (1 + e^-b) / (e^-a + e^-b + e^-(a+b)), here in float64; one b for four a."""
    a = torch.tensor([[-200.0, -30.0, 0.5, 150.0], [-3.0, 9.0, 40.0, 95.0], [0.0, 85.0, 90.0, 160.0]])
    b = torch.tensor([[2.0], [-60.0], [90.0]])
    a.requires_grad_(), b.requires_grad_()
    upstream = torch.tensor([1.0, -2.0, 3.0, 0.5])
    of_a, of_b = torch.autograd.grad(product_logit(a, b), (a, b), upstream.expand(3, 4))
    x, y = torch.exp(-a.detach().double()), torch.exp(-b.detach().double())
    total = x + y + x * y
    torch.testing.assert_close(of_a, (upstream * x * (1 + y) / total).float(), rtol=1e-4, atol=1e-37)
    torch.testing.assert_close(of_b, (upstream * y * (1 + x) / total).sum(1, keepdim=True).float(), rtol=1e-4, atol=0)


def test_product_logit_of_one_operand_that_learns():
    a, b = torch.tensor([1.0, -2.0], requires_grad=True), torch.tensor([0.5])
    (grad,) = torch.autograd.grad(product_logit(a, b).sum(), a)
    z = product_logit(a, b).detach()
    torch.testing.assert_close(grad, a.detach().neg().sigmoid() / z.neg().sigmoid())


def test_saturated_logits_keep_their_gradient():
    """A product of 8e-53 rounds to 0 in float32; its logit is -120 and pulls with full force."""
    a = torch.full((1, 1), -60.0, requires_grad=True)
    z = product_logit(a, torch.full((1, 1), -60.0))
    loss = focal_loss_sum(z, torch.tensor([0]), torch.tensor([0]))
    assert z.item() == pytest.approx(-120.0)
    assert torch.autograd.grad(loss, a)[0].item() == pytest.approx(-0.25, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_float32(dtype):
    logits = torch.full((22400, 80), -4.59375, dtype=dtype)
    value = focal_loss_sum(logits, NOTHING, NOTHING)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, focal_loss_sum(logits.float(), NOTHING, NOTHING))


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\(2, 3, 4\)"):
        focal_loss_sum(torch.zeros(2, 3, 4), NOTHING, NOTHING)
    with pytest.raises(ValueError, match=r"\(M, K\)"):
        focal_loss_sum(torch.zeros(2, 3), torch.tensor([0, 1]), torch.tensor([0]))


def test_root_logit_of_every_pair():
    """Value and gradient of logit(sqrt(sigma(a) sigma(b))) against float64, as far as that tells the root from 1."""
    grid = torch.linspace(-25, 15, 41)
    a, b = (x.flatten().clone().requires_grad_() for x in torch.meshgrid(grid, grid, indexing="ij"))
    exact_a, exact_b = (x.detach().double().requires_grad_() for x in (a, b))
    s = (exact_a.sigmoid() * exact_b.sigmoid()).sqrt()
    z, expected = root_logit(a, b), torch.log(s / (1 - s))
    torch.testing.assert_close(z.double(), expected, atol=2e-6, rtol=2e-6)
    z.sum().backward(), expected.sum().backward()
    torch.testing.assert_close(a.grad.double(), exact_a.grad, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(b.grad.double(), exact_b.grad, atol=1e-5, rtol=1e-5)


def test_root_logit_far_out():
    far = torch.tensor([-1000.0, -200.0, 60.0, 1000.0], requires_grad=True)
    z = root_logit(far, far)
    assert z[:3].tolist() == pytest.approx([-1000, -200, 60]) and 87 < z[3] < 88
    z.sum().backward()
    assert far.grad.isfinite().all() and far.grad[:3].tolist() == pytest.approx([1, 1, 1])
