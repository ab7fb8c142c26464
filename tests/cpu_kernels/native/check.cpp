// The kernels of every instruction set of this processor against plain loops in float64: what can be checked where
// there is no Python, as under an emulator of another processor. Prints a line for each instruction set.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "anychip_cpu.h"

namespace {

std::mt19937 generator(7);

std::vector<float> draw(size_t count) {
    std::normal_distribution<float> normal;
    std::vector<float> values(count);
    for (float& value : values) value = normal(generator);
    return values;
}

// Numbers of 16 bits: bfloat16 is half a float32, float16 is counted out.
uint16_t to_bf16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
double from_bf16(uint16_t half) {
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
double from_f16(uint16_t half) {
    const int exponent = half >> 10 & 31, fraction = half & 1023;
    const double size = exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
    return half >> 15 ? -size : size;
}
uint16_t to_f16(float value) {
    uint16_t best = 0;
    for (int exponent = 0; exponent < 31; ++exponent) {
        const double unit = std::ldexp(1.0, (exponent ? exponent : 1) - 25);
        const double steps = std::nearbyint(std::fabs(value) / unit);
        if (exponent ? steps >= 1024 && steps < 2048 : steps < 1024)
            best = static_cast<uint16_t>(exponent << 10 | (static_cast<int>(steps) & 1023));
    }
    return static_cast<uint16_t>(best | (value < 0 ? 0x8000 : 0));
}

struct Kind {
    const char* name;
    size_t bytes;
    double unit;   // in the last place, relative
    double least;  // half of the smallest number above zero, which rounding costs beside zero
    void put(void* p, size_t i, float value) const {
        if (bytes == 4)
            static_cast<float*>(p)[i] = value;
        else
            static_cast<uint16_t*>(p)[i] = name[0] == 'b' ? to_bf16(value) : to_f16(value);
    }
    double get(const void* p, size_t i) const {
        if (bytes == 4) return static_cast<const float*>(p)[i];
        const uint16_t half = static_cast<const uint16_t*>(p)[i];
        return name[0] == 'b' ? from_bf16(half) : from_f16(half);
    }
};

const Kind F32 = {"float32", 4, 0x1p-23, 0x1p-150}, BF16 = {"bfloat16", 2, 0x1p-7, 0x1p-134},
           F16 = {"float16", 2, 0x1p-10, 0x1p-25};

// An array of a kind, one element off the allocator's alignment.
struct Array {
    const Kind& kind;
    size_t count;
    std::vector<char> memory;
    Array(const Kind& kind, const std::vector<float>& values) : Array(kind, values.size()) {
        for (size_t i = 0; i < count; ++i) kind.put(data(), i, values[i]);
    }
    Array(const Kind& kind, size_t count) : kind(kind), count(count), memory((count + 1) * kind.bytes, 0x5a) {}
    void* data() { return memory.data() + kind.bytes; }
    double operator[](size_t i) const { return kind.get(memory.data() + kind.bytes, i); }
};

int failures = 0;

void expect(bool holds, const std::string& isa, const std::string& what) {
    if (holds) return;
    ++failures;
    std::printf("%s: %s is wrong\n", isa.c_str(), what.c_str());
}

void run(AnychipKernel kernel, const void* arguments, int64_t threads) {
    const AnychipCommand command = {kernel, arguments};
    anychip_cpu_run(&command, 1, threads);
}

std::string text(const char* what, const Kind& kind, int64_t a, int64_t b, int64_t c) {
    std::ostringstream out;
    out << what << " in " << kind.name << " " << a << " x " << b << " x " << c;
    return out.str();
}

// y = x W^T + b, packed and multiplied. `kept`: what W is.
void check_linear(const AnychipKernels& k, const Kind& kind, const Kind& kept, AnychipKernel pack, AnychipKernel linear,
                  int64_t rows, int64_t outputs, int64_t inputs, int64_t threads) {
    Array weight(kept, draw(outputs * inputs)), x(kind, draw(rows * inputs)), bias(kind, draw(outputs));
    const int64_t panels = (outputs + k.width - 1) / k.width, padded = inputs + inputs % 2;
    std::vector<float> packed(panels * k.width * padded), scratch(rows * (inputs + 16));
    Array y(kind, rows * outputs);
    const AnychipPack p = {weight.data(), packed.data(), nullptr, outputs, inputs, 0, 0};
    run(pack, &p, threads);
    AnychipLinear w = {};
    w.x = x.data(), w.packed = packed.data(), w.bias = bias.data(), w.y = y.data(), w.scratch = scratch.data();
    w.x_stride = inputs, w.rows = rows, w.outputs = outputs, w.inputs = inputs, w.y_stride = outputs;
    run(linear, &w, threads);
    bool right = true;
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t o = 0; o < outputs; ++o) {
            double exact = bias[o], size = std::fabs(exact) + 1;
            for (int64_t i = 0; i < inputs; ++i) {
                const double product = x[r * inputs + i] * weight[o * inputs + i];
                exact += product, size += std::fabs(product);
            }
            const double error = std::fabs(y[r * outputs + o] - exact);
            right = right && error <= (inputs + 4) * F32.unit * size + std::fabs(exact) * kind.unit;
        }
    expect(right, k.name, text("linear", kind, rows, outputs, inputs));
}

void check_int(const AnychipKernels& k, int64_t bits, int64_t group, int64_t rows, int64_t outputs, int64_t inputs,
               int64_t threads) {
    // Numbers that need no rounding: weights are whole numbers that reach the largest, x likewise in each group.
    const int64_t step = group ? group : ANYCHIP_INPUT_GROUP, most = bits == 8 ? 127 : 7;
    std::vector<float> weight = draw(outputs * inputs), x = draw(rows * inputs);
    for (float& v : weight) v = std::nearbyint(std::fmax(-most, std::fmin(most, v * most / 3)));
    for (float& v : x) v = std::nearbyint(std::fmax(-127.0f, std::fmin(127.0f, v * 40)));
    for (int64_t o = 0; o < outputs; ++o)
        for (int64_t i = 0; i < inputs; i += group ? group : inputs) weight[o * inputs + i] = bits == 8 ? 127 : -8;
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < inputs; i += step) x[r * inputs + i] = 127;
    const int64_t panels = (outputs + k.width - 1) / k.width, padded = (inputs + 7) / 8 * 8;
    const int64_t groups = group ? (inputs + group - 1) / group : 1;
    std::vector<uint8_t> packed(panels * k.width * padded * bits / 8);
    std::vector<uint16_t> scales(panels * k.width * groups);
    const AnychipPack p = {weight.data(), packed.data(), scales.data(), outputs, inputs, bits, group};
    run(k.pack_int, &p, threads);
    std::vector<float> y(rows * outputs);
    std::vector<int32_t> scratch(std::max(rows, ANYCHIP_FEW_ROWS * threads) * (8 * ((inputs + step - 1) / step) + inputs + 128) / 4 + 1);
    AnychipLinear w = {};
    w.x = x.data(), w.packed = packed.data(), w.scales = scales.data(), w.y = y.data(), w.scratch = scratch.data();
    w.x_stride = inputs, w.rows = rows, w.outputs = outputs, w.inputs = inputs, w.y_stride = outputs;
    w.bits = bits, w.group = group;
    run(k.linear_int_f32, &w, threads);
    bool right = true;
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t o = 0; o < outputs; ++o) {
            double exact = 0, size = 1;
            for (int64_t i = 0; i < inputs; ++i) {
                exact += x[r * inputs + i] * weight[o * inputs + i];
                size += std::fabs(x[r * inputs + i] * weight[o * inputs + i]);
            }
            right = right && std::fabs(y[r * outputs + o] - exact) <= (groups + 8) * F32.unit * size;
        }
    expect(right, k.name, text(bits == 8 ? "int8 linear" : "int4 linear", F32, rows, outputs, inputs));
}

void check_norm(const AnychipKernels& k, const Kind& kind, AnychipKernel kernel, int64_t rows, int64_t size,
                int64_t threads) {
    Array x(kind, draw(rows * size)), residual(kind, draw(rows * size)), y(kind, rows * size), total(kind, rows * size);
    const std::vector<float> weight = draw(size);
    AnychipNorm w = {};
    w.x = x.data(), w.residual = residual.data(), w.weight = weight.data(), w.y = y.data(), w.total = total.data();
    w.x_stride = size, w.y_stride = size, w.rows = rows, w.size = size, w.eps = 1e-5f;
    run(kernel, &w, threads);
    bool right = true;
    for (int64_t r = 0; r < rows; ++r) {
        double squares = 0;
        for (int64_t i = r * size; i < (r + 1) * size; ++i) {
            right = right && std::fabs(total[i] - (x[i] + residual[i])) <= std::fabs(total[i]) * kind.unit;
            squares += total[i] * total[i];
        }
        for (int64_t i = 0; i < size; ++i) {
            const double exact = total[r * size + i] / std::sqrt(squares / size + 1e-5) * weight[i];
            right = right && std::fabs(y[r * size + i] - exact) <= std::fabs(exact) * (kind.unit + size * F32.unit) + kind.least;
        }
    }
    expect(right, k.name, text("norm", kind, rows, size, 1));
}

void check_gated(const AnychipKernels& k, const Kind& kind, AnychipKernel kernel, int64_t rows, int64_t size,
                 int64_t threads) {
    Array gate(kind, draw(rows * size)), up(kind, draw(rows * size)), y(kind, rows * size);
    AnychipGated w = {};
    w.gate = gate.data(), w.up = up.data(), w.y = y.data();
    w.gate_stride = size, w.up_stride = size, w.y_stride = size;
    w.rows = rows, w.size = size, w.activation = ANYCHIP_SILU;
    run(kernel, &w, threads);
    bool right = true;
    for (int64_t i = 0; i < rows * size; ++i) {
        const double exact = gate[i] / (1 + std::exp(-gate[i])) * up[i];
        right = right && std::fabs(y[i] - exact) <= std::fabs(exact) * (kind.unit + 16 * F32.unit) + 1e-7;
    }
    expect(right, k.name, text("gated activation", kind, rows, size, 1));
}

// Whether the largest of each row are where and what they are in `whole`, and the others less.
bool same_largest(const std::vector<float>& whole, const std::vector<float>& y, int64_t rows, int64_t outputs) {
    bool right = true;
    for (int64_t r = 0; r < rows; ++r) {
        const float* row = whole.data() + r * outputs;
        const float best = *std::max_element(row, row + outputs);
        for (int64_t o = 0; o < outputs; ++o)
            right = right && (row[o] == best ? y[r * outputs + o] == best : y[r * outputs + o] < best);
    }
    return right;
}

// The largest of each row of x W^T, with W in 8 bits beside it: where and what it is without.
void check_screen(const AnychipKernels& k, const Kind& kept, AnychipKernel pack, AnychipKernel linear,
                  AnychipKernel screen, int64_t rows, int64_t outputs, int64_t inputs, int64_t threads) {
    Array weight(kept, draw(outputs * inputs));
    const std::vector<float> x = draw(rows * inputs);
    const int64_t panels = (outputs + k.width - 1) / k.width, padded = (inputs + 7) / 8 * 8;
    std::vector<float> wide(outputs * inputs), packed(panels * k.width * (inputs + 1));
    std::vector<float> whole(rows * outputs), y(rows * outputs);
    for (size_t i = 0; i < wide.size(); ++i) wide[i] = static_cast<float>(weight[i]);
    std::vector<uint8_t> bytes(panels * k.width * padded);
    std::vector<uint16_t> scales(panels * k.width);
    const AnychipPack p = {weight.data(), packed.data(), nullptr, outputs, inputs, 0, 0};
    const AnychipPack rough = {wide.data(), bytes.data(), scales.data(), outputs, inputs, 8, 0};
    run(pack, &p, threads), run(k.pack_int, &rough, threads);
    std::vector<float> bounds(2 * panels);
    for (int64_t o = 0; o < outputs; ++o) {
        const int64_t panel = o / k.width, place = o % k.width;
        double off = 0, exact = 0, left = 0;
        for (int64_t i = 0; i < inputs; ++i) {
            const double w = wide[o * inputs + i];
            const int64_t at = ((panel * padded / 4 + i / 4) * k.width + place) * 4 + i % 4;
            const double byte = from_bf16(scales[o]) * (bytes[at] - 128.0);
            off += (w - byte) * (w - byte), exact += w * w, left += byte * byte;
        }
        bounds[2 * panel] = std::fmax(bounds[2 * panel], 1.001 * std::sqrt(off));
        bounds[2 * panel + 1] = std::fmax(bounds[2 * panel + 1], 1.001 * std::sqrt(std::fmax(exact, left)));
    }
    const int64_t groups = (inputs + ANYCHIP_INPUT_GROUP - 1) / ANYCHIP_INPUT_GROUP;
    std::vector<int32_t> scratch(std::max(rows, ANYCHIP_FEW_ROWS * threads) * (8 * groups + inputs + 128) / 4 + 1);
    std::vector<float> known(3 * rows);
    AnychipLinear w = {};
    w.x = x.data(), w.packed = packed.data(), w.y = whole.data();
    w.x_stride = inputs, w.rows = rows, w.outputs = outputs, w.inputs = inputs, w.y_stride = outputs;
    run(linear, &w, threads);
    w.packed = bytes.data(), w.scales = scales.data(), w.y = y.data(), w.scratch = scratch.data(), w.bits = 8;
    run(k.linear_int_f32, &w, threads);
    AnychipScreen s = {};
    s.x = x.data(), s.packed = packed.data(), s.bounds = bounds.data(), s.y = y.data(), s.scratch = known.data();
    s.x_stride = inputs, s.rows = rows, s.outputs = outputs, s.inputs = inputs;
    run(screen, &s, threads);
    expect(same_largest(whole, y, rows, outputs), k.name,
           text("the largest product with a weight kept", kept, rows, outputs, inputs));
}

// The largest of each row with a weight of 8 bits, of which the upper six lie beside it.
void check_largest(const AnychipKernels& k, int64_t rows, int64_t outputs, int64_t inputs, int64_t threads) {
    const std::vector<float> weight = draw(outputs * inputs), x = draw(rows * inputs);
    const int64_t panels = (outputs + k.width - 1) / k.width, panel = k.width * inputs, four = 4 * k.width;
    std::vector<uint8_t> bytes(panels * panel), upper(panels * panel / 4 * 3);
    std::vector<uint16_t> scales(panels * k.width);
    const AnychipPack p = {weight.data(), bytes.data(), scales.data(), outputs, inputs, 8, 0};
    run(k.pack_int, &p, threads);
    for (int64_t i = 0; i < panels * panel; ++i) {
        const int64_t unit = i / (4 * four), part = i / four % 4, place = i % four;
        upper[(3 * unit + part / 2) * four + place] |= (bytes[i] >> 2 & 15) << part % 2 * 4;
        upper[(3 * unit + 2) * four + place] |= (bytes[i] >> 6) << 2 * part;
    }
    const int64_t groups = (inputs + ANYCHIP_INPUT_GROUP - 1) / ANYCHIP_INPUT_GROUP;
    std::vector<int32_t> scratch(ANYCHIP_FEW_ROWS * threads * (8 * groups + inputs + 128) / 4 + 1);
    std::vector<float> whole(rows * outputs), y(rows * outputs), known(threads * ANYCHIP_FEW_ROWS);
    AnychipLargest all = {};
    AnychipLinear& w = all.product;
    w.x = x.data(), w.packed = bytes.data(), w.scales = scales.data(), w.y = whole.data(), w.scratch = scratch.data();
    w.x_stride = inputs, w.rows = rows, w.outputs = outputs, w.inputs = inputs, w.y_stride = outputs, w.bits = 8;
    run(k.linear_int_f32, &w, threads);
    w.y = y.data(), all.upper = upper.data(), all.known = known.data();
    run(k.largest_int, &all, threads);
    expect(same_largest(whole, y, rows, outputs), k.name,
           text("the largest product with a weight of 8 bits", F32, rows, outputs, inputs));
}

void check_greedy(const AnychipKernels& k, int64_t rows, int64_t size, int64_t threads) {
    const std::vector<float> logits = draw(rows * size);
    std::vector<int32_t> tokens(rows), sampling(rows * 9), slot(rows), last(1);
    std::vector<uint64_t> scratch(threads * size * ANYCHIP_SAMPLE_BYTES / 8 + 1);
    AnychipSample w = {};
    w.logits = logits.data(), w.sampling = sampling.data(), w.row_slot = slot.data(), w.last_token = last.data();
    w.tokens = tokens.data(), w.scratch = scratch.data();
    w.rows = rows, w.vocabulary = w.logits_stride = size, w.sampling_stride = 9;
    run(k.sample, &w, threads);
    bool right = true;
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < size; ++i) right = right && logits[r * size + i] <= logits[r * size + tokens[r]];
    expect(right, k.name, text("the most likely token", F32, rows, size, 1));
}

void check(const AnychipKernels& k, int64_t threads) {
    for (const int64_t rows : {1, 3, 13, 40})
        for (const auto& [outputs, inputs] : {std::pair<int64_t, int64_t>{1, 1}, {7, 5}, {33, 65}, {40, 300}}) {
            check_linear(k, F32, F32, k.pack_f32, k.linear_f32, rows, outputs, inputs, threads);
            check_linear(k, F32, BF16, k.pack_bf16, k.linear_f32_bf16, rows, outputs, inputs, threads);
            check_linear(k, F32, F16, k.pack_f16, k.linear_f32_f16, rows, outputs, inputs, threads);
            check_linear(k, BF16, BF16, k.pack_bf16, k.linear_bf16, rows, outputs, inputs, threads);
            check_linear(k, F16, F16, k.pack_f16, k.linear_f16, rows, outputs, inputs, threads);
            check_screen(k, F32, k.pack_f32, k.linear_f32, k.screen_f32, rows, outputs, inputs, threads);
            check_screen(k, BF16, k.pack_bf16, k.linear_f32_bf16, k.screen_f32_bf16, rows, outputs, inputs, threads);
            check_screen(k, F16, k.pack_f16, k.linear_f32_f16, k.screen_f32_f16, rows, outputs, inputs, threads);
            for (const int64_t group : {0, 32, 128}) check_int(k, 8, group, rows, outputs, inputs, threads);
            for (const int64_t group : {32, 64}) check_int(k, 4, group, rows, outputs, inputs, threads);
            if (rows <= ANYCHIP_FEW_ROWS) check_largest(k, rows, outputs, (inputs + 15) / 16 * 16, threads);
        }
    for (const int64_t size : {1, 5, 33, 576}) {
        check_norm(k, F32, k.rms_norm_f32, 9, size, threads);
        check_norm(k, BF16, k.rms_norm_bf16, 9, size, threads);
        check_norm(k, F16, k.rms_norm_f16, 9, size, threads);
        check_gated(k, F32, k.gated_f32, 70, size, threads);
        check_gated(k, BF16, k.gated_bf16, 70, size, threads);
        check_gated(k, F16, k.gated_f16, 70, size, threads);
        check_greedy(k, 5, size, threads);
    }
}

}  // namespace

int main() {
    std::istringstream isas(anychip_cpu_isas());
    for (std::string isa; isas >> isa;) {
        for (const int64_t threads : {1, 3}) check(*anychip_cpu_kernels(isa.c_str()), threads);
        std::printf("%s: checked\n", isa.c_str());
    }
    return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
