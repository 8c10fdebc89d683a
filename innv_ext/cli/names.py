"""The names of analyzers and metrics, known without TensorFlow; a test holds that they are those of the library."""

from __future__ import annotations

ANALYZERS = """
input random gradient gradient.baseline input_t_gradient smoothgrad integrated_gradients deconvnet guided_backprop lrp
lrp.z lrp.z_IB lrp.epsilon lrp.epsilon_IB lrp.alpha_beta lrp.alpha_2_beta_1 lrp.alpha_2_beta_1_IB lrp.alpha_1_beta_0
lrp.alpha_1_beta_0_IB lrp.gamma lrp.z_plus lrp.z_plus_fast lrp.w_square lrp.flat lrp.rule_until_idx
lrp.sequential_preset_a lrp.sequential_preset_b lrp.sequential_preset_a_flat lrp.sequential_preset_b_flat
lrp.sequential_preset_b_flat_until_idx lrp.epsilon_plus lrp.epsilon_plus_flat lrp.epsilon_gamma_box
lrp.epsilon_alpha2_beta1 lrp.epsilon_alpha2_beta1_flat lrp.attnlrp lrp.cp_lrp lrp.excitation_backprop deep_taylor
deep_taylor.bounded
pattern.net pattern.attribution deep_lift deep_shap gradient_shap occlusion lime kernel_shap rise
prediction_difference grad_cam grad_cam_plus_plus layer_cam score_cam l_rde rc_rde mr_rde ord_rde cafo caso
smooth_cafo smooth_caso moreau_grad sparse_moreau_grad group_sparse_moreau_grad
""".split()
METRICS = """
aopc_morf aopc_lerf ordering_distortion ordering_accuracy max_sensitivity gini completeness_error inside_ratio
attack_top_k randomization
""".split()
