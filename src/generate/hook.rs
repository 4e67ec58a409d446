//! [`LogitsHook`]: takes part in the choice of each token.

use crate::error::Result;

/// Changes the logits of an answer before each of its tokens is chosen: a grammar, biases, probabilities to
/// report. The host chooses the tokens of an answer with a hook, from the logits that the hook leaves.
///
/// ```no_run
/// use unimlx::{GenerateOptions, Generator, LogitsHook, Result};
/// struct Never(u32);
/// impl LogitsHook for Never {
///     fn adjust(&mut self, _prompt: &[u32], _answer: &[u32], logits: &mut [f32]) -> Result<()> {
///         logits[self.0 as usize] = f32::NEG_INFINITY;
///         Ok(())
///     }
/// }
/// # fn run(generator: &mut Generator, prompt: &[u32]) -> Result<()> {
/// generator.prompt_hooked(prompt, GenerateOptions::default(), Box::new(Never(7)))?;
/// # Ok(())
/// # }
/// ```
pub trait LogitsHook: Send {
    /// Called before a token is chosen, with the tokens so far. `logits` has one entry for each row of the
    /// model's vocabulary; a token at minus infinity is not chosen while another is above that.
    ///
    /// # Errors
    /// End the answer.
    fn adjust(&mut self, prompt: &[u32], answer: &[u32], logits: &mut [f32]) -> Result<()>;

    /// Called with each token that joins the answer, not with one that ends it; returns whether the answer is
    /// complete with it.
    ///
    /// # Errors
    /// End the answer.
    fn took(&mut self, token: u32) -> Result<bool> {
        let _ = token;
        Ok(false)
    }
}
